"""``python export.py``: the verb ``export`` of ``python -m deploy``."""

from deploy.cli.main import entry

if __name__ == "__main__":
    entry("export")

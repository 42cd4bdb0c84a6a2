"""``python build_engine.py``: the verb ``build`` of ``python -m deploy``."""

from deploy.cli.main import entry

if __name__ == "__main__":
    entry("build")

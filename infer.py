"""``python infer.py``: the verb ``infer`` of ``python -m deploy``."""

from deploy.cli.main import entry

if __name__ == "__main__":
    entry("infer")

"""``python -m deploy VERB``."""

from deploy.cli.main import entry

entry()

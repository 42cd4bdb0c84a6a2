"""The command line: one small file per verb, each with ``add_arguments`` and ``run``."""

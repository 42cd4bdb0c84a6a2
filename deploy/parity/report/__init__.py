"""The result of ``verify --layers`` as one HTML page: no script, no file and no network are needed to read it."""

from deploy.parity.report.page import render

__all__ = ["render"]

"""Versions of the packages that made an artefact."""

from __future__ import annotations

from importlib import metadata

from deploy import __version__


def tool_versions(*distributions: str) -> dict[str, str]:
    """This toolkit's version and that of each installed distribution, by name."""
    versions = {"deploy-toolkit": __version__}
    for name in distributions:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions

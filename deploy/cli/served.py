"""The table of what is served: models, and how they share the machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.cli.console import Console
from deploy.serving.settings import ModelSettings, uses_cores

if TYPE_CHECKING:
    from deploy.manifest import Manifest
    from deploy.serving.catalogue import Offers
    from deploy.serving.repository import Repository

_COLUMNS = ("Model", "version", "file", "precision", "instances × threads", "batch", "delay ms")


@dataclass(frozen=True)
class Served:
    """One version of a model; ``threads`` is None where it runs on a GPU."""

    model: str
    version: int
    file: str
    precision: str | None
    settings: ModelSettings

    @property
    def threads(self) -> int:
        return self.settings.instances * (self.settings.threads or 1) if self.on_cpu else 0

    @property
    def on_cpu(self) -> bool:
        return uses_cores(Path(self.file), self.settings)

    def as_dict(self) -> dict[str, Any]:
        settings = {**asdict(self.settings), "threads": self.settings.threads if self.on_cpu else None}
        return {
            "model": self.model,
            "version": self.version,
            "file": self.file,
            "precision": self.precision,
            **settings,
        }

    def row(self) -> tuple[object, ...]:
        of_each = f" × {self.settings.threads}" if self.on_cpu else ""
        return (
            *(self.model, self.version, self.file, self.precision or "not said"),
            *(f"{self.settings.instances}{of_each}", self.settings.max_batch, f"{self.settings.max_delay_ms:g}"),
        )


def loaded(repository: Repository) -> list[Served]:
    """What a repository has loaded, with the batches that it takes."""
    served = []
    for model in repository.loaded():
        offer, manifest = repository.offer(model), model.batcher.runner.manifest
        if offer.file is not None and offer.settings is not None:
            batch = model.batcher.max_batch
            settings = replace(offer.settings, max_batch=batch)
            served.append(Served(model.name, int(model.version), str(offer.file), _precision(manifest), settings))
    return served


def found(name: str, offers: Offers) -> list[Served]:
    """What would be loaded: files are read, and nothing is run.

    Raises:
        InputError: the settings are refused, or a file is no graph.
    """
    if offers.error is not None:
        raise offers.error
    return [
        Served(name, version, str(offer.file), _precision(_manifest(offer.file)), offer.settings)
        for version, offer in offers.versions.items()
        if offer.file is not None and offer.settings is not None
    ]


def _manifest(file: Path) -> Manifest | None:
    from deploy.manifest import read_plan_manifest

    if file.suffix == ".plan":
        return read_plan_manifest(file)
    # Imported here: it costs half a second, which a server that starts does not need.
    from deploy.graph.files import load, read_manifest

    return read_manifest(load(file), str(file))


def _precision(manifest: Manifest | None) -> str | None:
    return None if manifest is None else str(manifest.precision)


def document(served: Sequence[Served], cores: int, decode_threads: int) -> dict[str, Any]:
    """The table for ``--json``."""
    threads = {"models": sum(each.threads for each in served), "cores": cores, "decode": decode_threads}
    return {"served": [each.as_dict() for each in served], "threads": threads}


def show(console: Console, served: Sequence[Served], cores: int, decode_threads: int) -> None:
    """The table, and a warning where the models state more threads than there are cores."""
    threads = sum(each.threads for each in served)
    console.table(_COLUMNS, [each.row() for each in served])
    console.text(f"CPU threads: {threads} for models on {cores} cores, {decode_threads} for images")
    if threads > cores:
        console.warn(f"the models' {threads} threads share {cores} cores: fewer --instances or --threads are faster")

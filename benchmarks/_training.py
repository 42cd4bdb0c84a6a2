"""Teach a network of ``models/`` to tell images apart: one class per image, in a given time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from _augment import augmented, normalised, plain
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, update_bn

from deploy.artifacts import replacing

BATCH, RATE, DECAY, SMOOTHING, SEED = 32, 2e-3, 0.05, 0.1, 0
WARM_UP = 0.05  # of the time, in which the rate rises from zero
AVERAGE = 0.995  # what the averaged weights keep of themselves at each step, at most
RECIPE = (BATCH, RATE, DECAY, SMOOTHING, SEED, WARM_UP, AVERAGE)
EPOCHS_BETWEEN_SAVES = 10
WEIGHTS, CHECKPOINT, LOG = "weights.pth", "checkpoint.pt", "training.log"

Report = Callable[[str], None]


@dataclass
class Progress:
    """How far a training is."""

    epochs: int = 0
    seconds: float = 0.0
    top1: float = 0.0  # % of the plain images that the averaged weights recognise, at the last save


@dataclass
class Training:
    """A network that learns to tell ``images`` apart, uint8 ``[classes, 3, H, W]``, at ``size`` pixels.

    The rate follows the time, not the epochs: it has fallen to zero when ``seconds`` have passed, however fast the
    machine is. The weights that count are a running average over the steps. Every few epochs they are written to
    ``weights.pth``, and all that is needed to go on to ``checkpoint.pt``. ``report`` gets a line per epoch, and so does
    ``training.log``.
    """

    model: nn.Module
    images: Tensor
    size: int
    seconds: float
    folder: Path
    report: Report
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        self.model.to(memory_format=torch.channels_last)
        self.average = AveragedModel(self.model, avg_fn=_averaged)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), weight_decay=DECAY)

    def run(self) -> Progress:
        self._resume()
        while self.progress.seconds < self.seconds:
            start = perf_counter()
            loss, right = self._epoch(start)
            self.progress.epochs += 1
            self.progress.seconds += (took := perf_counter() - start)
            done = self.progress.seconds >= self.seconds
            if done or self.progress.epochs % EPOCHS_BETWEEN_SAVES == 0:
                self._save()
            self._tell(
                f"epoch {self.progress.epochs}, {self.progress.seconds / 60:.1f} of {self.seconds / 60:.0f} min, "
                f"{len(self.images) / took:.0f} images/s, loss {loss:.3f}, training views {right:.1f} %, "
                f"plain images {self.progress.top1:.1f} %"
            )
        return self.progress

    def _tell(self, line: str) -> None:
        self.report(line)
        with (self.folder / LOG).open("a", encoding="utf-8") as log:
            log.write(line + "\n")

    def _epoch(self, start: float) -> tuple[float, float]:
        """Mean loss, and % of the views recognised."""
        generator = torch.Generator().manual_seed(SEED + self.progress.epochs)
        torch.manual_seed(SEED + self.progress.epochs)  # dropout
        self.model.train()
        total, right = 0.0, 0
        for chosen in batches(len(self.images), generator):
            self._set_rate(self.progress.seconds + perf_counter() - start)
            logits = self.model(self._views(chosen, generator))
            loss = cross_entropy(logits, chosen, label_smoothing=SMOOTHING)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.average.update_parameters(self.model)
            total += loss.item() * len(chosen)
            right += int((logits.argmax(1) == chosen).sum())
        return total / len(self.images), 100 * right / len(self.images)

    def _views(self, chosen: Tensor, generator: torch.Generator) -> Tensor:
        views = normalised(augmented(self.images[chosen], self.size, generator))
        return views.contiguous(memory_format=torch.channels_last)

    def _set_rate(self, seconds: float) -> None:
        """Up to ``RATE`` in the warm-up, then down a half cosine (arXiv 1608.03983) to zero."""
        done = min(seconds / self.seconds, 1.0)
        factor = done / WARM_UP if done < WARM_UP else (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = RATE * factor

    def accuracy(self) -> float:
        """% of the plain images that the averaged weights recognise."""
        network = self.average.module.eval()
        with torch.no_grad():
            views = [normalised(plain(part, self.size)) for part in self.images.split(BATCH)]
            guesses = torch.cat([network(part).argmax(1) for part in views])
        return 100 * (guesses == torch.arange(len(guesses))).double().mean().item()

    def _save(self) -> None:
        generator = torch.Generator().manual_seed(SEED)
        chosen = batches(len(self.images), generator)
        # The averaged weights' own statistics: an average of the network's would be another network's.
        update_bn((self._views(part, generator) for part in chosen), self.average)
        self.progress.top1 = self.accuracy()
        state = {name: getattr(self, name).state_dict() for name in ("model", "average", "optimizer")}
        _write(self.folder / WEIGHTS, self.average.module.state_dict())
        _write(self.folder / CHECKPOINT, {**state, "progress": vars(self.progress)})

    def _resume(self) -> None:
        path = self.folder / CHECKPOINT
        if not path.exists():
            return
        saved = torch.load(path, weights_only=True)
        for name in ("model", "average", "optimizer"):
            getattr(self, name).load_state_dict(saved[name])
        self.progress = Progress(**saved["progress"])


def batches(count: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices in random order, in batches of almost equal length of at most ``BATCH``."""
    return iter(torch.randperm(count, generator=generator).chunk(math.ceil(count / BATCH)))


def _averaged(average: Tensor, weights: Tensor, steps: Tensor) -> Tensor:
    """At first over fewer steps, so that the weights at the start are soon forgotten."""
    kept = min(AVERAGE, (1 + int(steps)) / (10 + int(steps)))
    return average.lerp(weights, 1 - kept)


def _write(path: Path, state: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        torch.save(state, temporary)

"""Train a small MobileNetV3 on handwritten digits, in minutes on a CPU.

    python examples/digits/train.py                     writes digits.safetensors, labels.txt and samples/ beside itself
    python examples/digits/train.py --write-data DIR    writes the held-out and calibration images only

The images go through the preprocessing that deployment uses, so what is learnt here is what an engine will see.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from scans import Scan, first_of_each, load_scans, write_data, write_png  # noqa: E402

from deploy.images.preprocess import preprocess  # noqa: E402
from deploy.specs import Preprocessing  # noqa: E402
from models import create_model, get_spec  # noqa: E402

MODEL, OPTIONS = "mobilenet_v3_small", {"width_mult": 0.75, "reduced_tail": True}
SIZE = 64
EPOCHS, BATCH, RATE, SEED = 60, 64, 4e-3, 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write-data", type=Path, metavar="DIR", help="write the images as folders and stop")
    folder = parser.parse_args().write_data
    if folder:
        write_data(folder)
    else:
        train_and_save()


def train_and_save() -> None:
    start = time.perf_counter()
    torch.set_num_threads(1)  # sums of one thread have one order: the same weights on every run
    learnt, held_out = load_scans()
    torch.manual_seed(SEED)
    model = create_model(MODEL, num_classes=10, **OPTIONS)
    train(model, *as_tensors(learnt))
    seconds = time.perf_counter() - start
    for name, scans in (("trained on", learnt), ("held out", held_out)):
        right = count_right(model, *as_tensors(scans))
        print(f"{name}: {right} of {len(scans)} right, {100 * right / len(scans):.2f} %")
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {seconds:.0f} s, torch {torch.__version__}")
    (HERE / "digits.safetensors").write_bytes(save(model.state_dict()))
    (HERE / "labels.txt").write_text("".join(f"{digit}\n" for digit in range(10)), encoding="utf-8")
    for scan in first_of_each(held_out, 1):
        write_png(scan, HERE / "samples" / f"{scan.digit}.png")


def as_tensors(scans: Sequence[Scan]) -> tuple[Tensor, Tensor]:
    """Preprocessed images ``float32 [N, 3, 64, 64]`` and their digits ``int64 [N]``."""
    transform = get_spec(MODEL).transform
    contract = Preprocessing(round(SIZE * transform.resize / transform.crop[0]), (SIZE, SIZE))
    images = [preprocess(np.repeat(scan.pixels[:, :, None], 3, axis=2), contract) for scan in scans]
    return torch.from_numpy(np.stack(images)), torch.tensor([scan.digit for scan in scans])


def train(model: nn.Module, images: Tensor, digits: Tensor) -> None:
    """AdamW on distorted images under a one-cycle rate; afterwards exact batch-norm statistics of the plain images."""
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    steps = EPOCHS * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=steps, pct_start=0.2)
    for epoch in range(EPOCHS):
        total = 0.0
        for chosen in batches(len(images)):
            loss = cross_entropy(model(distort(images[chosen])), digits[chosen], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1:2} of {EPOCHS}, loss {total / (len(images) // BATCH):.4f}", flush=True)
    fit_norms(model, images)


def batches(count: int) -> Iterator[Tensor]:
    """Indices in random order, ``BATCH`` at a time; what is left over waits for another epoch."""
    return iter(torch.randperm(count)[: count // BATCH * BATCH].split(BATCH))


def distort(images: Tensor) -> Tensor:
    """Turn, shear, scale and shift each image a little, as hands do."""
    count = len(images)
    affine = torch.eye(2, 3).repeat(count, 1, 1)
    affine[:, :, :2] += torch.empty(count, 2, 2).uniform_(-0.15, 0.15)
    affine[:, :, 2] = torch.empty(count, 2).uniform_(-0.15, 0.15)
    grid = affine_grid(affine, list(images.shape), align_corners=False)
    return grid_sample(images, grid, padding_mode="border", align_corners=False)


def fit_norms(model: nn.Module, images: Tensor) -> None:
    """Replace the running averages, which lag and saw distorted images, by averages over all images."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    with torch.no_grad():
        for batch in images.split(BATCH):
            model(batch)


def count_right(model: nn.Module, images: Tensor, digits: Tensor) -> int:
    model.eval()
    with torch.no_grad():
        guesses = torch.cat([model(batch).argmax(1) for batch in images.split(BATCH)])
    return int((guesses == digits).sum())


if __name__ == "__main__":
    main()

"""What the page is tried with: a trained classifier, a detector, a model of no images, pictures and load."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import onnx
from colours import write_colours
from commands import REPOSITORY
from graphs import saved, tensor
from PIL import Image

from deploy.cli.main import main

DIGITS = REPOSITORY / "examples" / "digits"
NETWORK = ("--option", "width_mult=0.75", "--option", "reduced_tail=true", "--num-classes", "10", "--image-size", "64")
THREE = (DIGITS / "samples" / "3.png").read_bytes()
BLOCKS = {"red": (20, 30, 120, 100), "green": (130, 5, 170, 45), "blue": (180, 50, 300, 150)}
SIZE = (320, 160)


def write_models(into: Path) -> Path:
    """``digits``, ``colours`` and ``sums`` in the folder ``into``."""
    weights = ("--weights", DIGITS / "digits.safetensors", "--labels", DIGITS / "labels.txt")
    argv = ["--model", "mobilenet_v3_small", *NETWORK, *weights, "-o", into / "digits.onnx"]
    assert main([str(argument) for argument in argv], "export") == 0
    write_colours(into / "colours.onnx")
    add = onnx.helper.make_node("Add", ["x", "x"], ["y"])
    saved(str(into / "sums.onnx"), [add], [tensor("x", ["n", 2])], [tensor("y", ["n", 2])])
    return into


def blocks_png() -> bytes:
    """A picture of three blocks, each of one colour, where ``BLOCKS`` has them."""
    image = Image.new("RGB", SIZE, (40, 40, 40))
    for colour, box in BLOCKS.items():
        image.paste({"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}[colour], box)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@contextlib.contextmanager
def load(address: str, model: str, clients: int = 4) -> Iterator[None]:
    """Requests from ``clients`` threads, one after the other."""
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=60) as client:
            while not stop.is_set():
                client.post(f"{address}v2/models/{model}/classify", content=THREE).raise_for_status()

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()

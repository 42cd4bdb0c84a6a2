"""Pictures of the page, to look at: ``serve``, ``dark``, ``detector``, ``phone``, ``numbers`` and ``locked``.

    PYTHONPATH=.:tests python tests/page_screenshots.py FOLDER [NAME …]

``serve`` is the one in docs/images.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from browser import PHONE, Tab, chromium, serving
from page_models import THREE, blocks_png, load, write_models
from PIL import Image

DESKTOP = {"viewport": {"width": 1180, "height": 800}}
TALL = {**PHONE, "viewport": {"width": 360, "height": 2260}}
# Options of the browser, the model, its image.
SHOTS = {
    "serve": (DESKTOP, "digits", THREE),
    "dark": ({**DESKTOP, "color_scheme": "dark"}, "digits", THREE),
    "detector": (DESKTOP, "colours", blocks_png()),
    "phone": ({**TALL, "color_scheme": "dark"}, "colours", blocks_png()),
    "numbers": ({**DESKTOP, "color_scheme": "dark"}, "sums", None),
}
FILLED = 12  # seconds of load before the picture is taken


def take(tab: Tab, model: str, image: bytes | None, path: Path, *, whole: bool) -> None:
    """One picture, of the ``whole`` page or of what the window shows."""
    tab.open().choose(model)
    if image is not None:
        with load(tab.address, "digits"):
            tab.page.wait_for_timeout(1000 * FILLED)
            tab.give(("image.png", "image/png", image))
            tab.said("round trip")
            tab.page.wait_for_timeout(500)
    tab.page.screenshot(path=path, full_page=whole)
    Image.open(path).convert("RGB").save(path, optimize=True)
    tab.close()


def locked(page: object, address: str, path: Path) -> None:
    """The page of a server that wants a key."""
    page.goto(address)
    page.get_by_label("API key").wait_for()
    page.screenshot(path=path)


def main(into: Path, names: set[str]) -> None:
    """Write ``names`` as PNG into the folder ``into``."""
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        with serving(write_models(Path(folder))) as address:
            for name in SHOTS.keys() & names:
                options, model, image = SHOTS[name]
                # A picture of the whole page would end the emulation of a touch screen.
                whole = not options.get("has_touch", False)
                take(Tab(browser, address, **options), model, image, into / f"{name}.png", whole=whole)
        if "locked" in names:
            with serving(Path(folder), "--api-key", "secret") as address:
                locked(browser.new_page(**DESKTOP), address, into / "locked.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), set(sys.argv[2:]) or {*SHOTS, "locked"})

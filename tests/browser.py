"""Chromium and a server of its own, for tests that look at the page."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import REPOSITORY, environment

PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@contextlib.contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[str]:
    """``deploy serve`` on ``folder`` as a process; the address of its page."""
    flags = ["--http-port", "0", "--no-grpc", "--no-metrics", "--threads", "1", *arguments]
    command = [sys.executable, "-m", "deploy", "serve", str(folder), *flags]
    env = environment(PYTHONPATH=str(REPOSITORY), PYTHONUNBUFFERED="1")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as server:
        try:
            line = server.stdout.readline()
            assert " on http://" in line, server.stderr.read()
            yield line.split()[-1] + "/"
        finally:
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=60)


@contextlib.contextmanager
def chromium() -> Iterator[object]:
    """Playwright's handle of the system's Chromium, headless; skips where there is none."""
    binary = next(filter(None, map(shutil.which, NAMES)), None)
    if binary is None:
        pytest.skip(f"no Chromium is here ({', '.join(NAMES)})")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    # Chromium's sandbox refuses to run as root, as whom containers run.
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=binary, args=flags)
        yield browser
        browser.close()


class Tab:
    """A page that is watched: what it logs, what it throws, and where it sends requests."""

    def __init__(self, browser: object, address: str, **options: object) -> None:
        self.address = address
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type != "log" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.errors.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def open(self) -> Tab:
        """Load the page and wait for the first model."""
        self.page.goto(self.address)
        self.page.wait_for_selector(".model .tensors:not(:empty)")
        return self

    def choose(self, model: str) -> None:
        self.page.locator(".model").filter(has=self.page.get_by_text(model, exact=True)).click()

    def give(self, *files: tuple[str, str, bytes]) -> None:
        """Choose files as a person does: name, media type and content of each."""
        fields = ("name", "mimeType", "buffer")
        self.page.set_input_files("#file", [dict(zip(fields, file)) for file in files])

    def drop(self, name: str, kind: str, content: bytes) -> None:
        """Drop a file on the middle of the page."""
        self.page.evaluate(
            """([name, type, text]) => {
                const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
                const dataTransfer = new DataTransfer();
                dataTransfer.items.add(new File([bytes], name, { type }));
                for (const event of ["dragenter", "dragover", "drop"])
                    document.querySelector("main").dispatchEvent(
                        new DragEvent(event, { dataTransfer, bubbles: true, cancelable: true }));
            }""",
            [name, kind, base64.b64encode(content).decode()],
        )

    def found(self) -> list[list[str]]:
        """Label and score of each row of the answer, which is waited for."""
        self.page.wait_for_selector("#found li")
        rows = self.page.locator("#found li").all()
        return [[row.locator("span").first.inner_text(), row.locator("span").last.inner_text()] for row in rows]

    def said(self, words: str) -> None:
        """Wait until the line above the answer holds ``words``."""
        self.page.locator("#said", has_text=words).wait_for()

    def boxes(self) -> list[list[float]]:
        """x1, y1, x2, y2 of each drawn box as shares of the picture's sides, in the order of the answer."""
        self.page.wait_for_selector(".box")
        return self.page.evaluate(
            """() => {
                const frame = document.querySelector("#picture img").getBoundingClientRect();
                return [...document.querySelectorAll(".box")].reverse().map((box) => {
                    const { left, top, right, bottom } = box.getBoundingClientRect();
                    return [(left - frame.left) / frame.width, (top - frame.top) / frame.height,
                            (right - frame.left) / frame.width, (bottom - frame.top) / frame.height];
                });
            }"""
        )

    def close(self) -> None:
        """Close it; nothing was logged, thrown or asked of another server."""
        self.context.close()
        assert self.errors == []
        local = (self.address, "blob:")
        assert [url for url in self.requests if not url.startswith(local)] == []

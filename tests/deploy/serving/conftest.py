"""The page of a real server in Chromium: a classifier that was trained, a detector, a model of no images."""

from __future__ import annotations

import pytest
from browser import Tab, chromium, serving
from page_models import blocks_png, write_models


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def blocks():
    return blocks_png()


# Not of the session: while Playwright runs, so does an event loop in this thread, and others need asyncio.run.
@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def address(browser, folder):
    with serving(folder) as page:
        yield page


@pytest.fixture
def tab(browser, address):
    opened = Tab(browser, address).open()
    yield opened
    opened.close()

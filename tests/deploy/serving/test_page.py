"""The page as it is served: its files, headers and markup. test_page_browser.py looks at it in a browser."""

from __future__ import annotations

import asyncio
import re
from html.parser import HTMLParser

import httpx
import pytest

from deploy.serving.batcher import BatchSettings
from deploy.serving.http import application
from deploy.serving.repository import Repository
from deploy.serving.service import Service

VOID = {"meta", "link", "input", "img", "br"}


def get(*paths, method="GET", key="k"):
    """Replies of a server without models that has an API key; none is sent."""

    async def asked():
        app = application(Service(Repository({}, BatchSettings())), key=key)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return [await client.request(method, path) for path in paths]

    return asyncio.run(asked())


class Markup(HTMLParser):
    """Raises for an element that is not closed where it should be; keeps tags with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()

    def values(self, name):
        return [attributes[name] for _, attributes in self.tags if name in attributes]


@pytest.fixture(scope="module")
def page():
    (reply,) = get("/")
    assert reply.status_code == 200
    return Markup(reply.text)


@pytest.fixture(scope="module")
def scripts(page):
    """Name → source of every module that the page loads, directly or through another."""
    found, waiting = {}, [path for path in page.values("src") if path.endswith(".js")]
    while waiting:
        path = waiting.pop()
        if path not in found:
            (reply,) = get(f"/{path}")
            assert (reply.status_code, reply.headers["content-type"]) == (200, "text/javascript; charset=utf-8")
            found[path] = reply.text
            waiting += [f"page/{name}" for name in re.findall(r'from "\./([\w.]+)"', reply.text)]
    return found


def test_the_page_needs_no_key_and_nothing_but_itself():
    page, style, icon, models = get("/", "/page/page.css", "/page/icon.svg", "/v2/models/stats")
    assert [reply.status_code for reply in (page, style, icon, models)] == [200, 200, 200, 401]
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert style.headers["content-type"] == "text/css; charset=utf-8"
    assert icon.headers["content-type"] == "image/svg+xml"


def test_head_has_the_headers_alone():
    ((head,), (body,)) = get("/", method="HEAD"), get("/")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers == body.headers


def test_its_policy_lets_in_the_server_alone():
    for reply in get("/", "/page/main.js"):
        policy = dict(part.split(" ", 1) for part in reply.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        sources = {source for name in policy if name.endswith("-src") for source in policy[name].split()}
        assert sources == {"'none'", "'self'", "blob:"}
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert policy["require-trusted-types-for"] == "'script'"
        assert reply.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["/page/", "/page/nothing.js", "/page/../page.py", "/page/%2e%2e/page.py", "/index.html"]
)
def test_no_other_file_is_there(path):
    assert get(path)[0].status_code == 404


def test_whatever_the_page_names_is_served(page, scripts):
    for path in page.values("src") + page.values("href"):
        assert re.fullmatch(r"page/[\w.]+", path), "relative, so that a proxy may put the page below a prefix"
        assert get(f"/{path}")[0].status_code == 200
    assert set(scripts) == {
        f"page/{name}.js" for name in ("main", "api", "charts", "dom", "history", "picture", "samples")
    }


def test_the_markup_is_whole(page, scripts):
    ids = page.values("id")
    assert len(set(ids)) == len(ids)
    assert set(page.values("for")) | set(page.values("aria-labelledby")) <= set(ids)
    wanted = {name for source in scripts.values() for name in re.findall(r'byId\("([\w-]+)"\)', source)}
    assert wanted <= set(ids)
    assert ("html", {"lang": "en"}) in page.tags
    assert all("alt" in attributes for tag, attributes in page.tags if tag == "img")


def test_nothing_becomes_html_or_code(page, scripts):
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on") or name == "style"]
    for source in scripts.values():
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", source)
        assert set(re.findall(r"https?://[^\"`]*", source)) <= {"http://www.w3.org/2000/svg"}

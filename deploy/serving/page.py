"""The page at ``/``: files of the package, of which a browser may use these and the server's own replies alone."""

from __future__ import annotations

from functools import partial
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
# No inline script or style, nothing from or to elsewhere, and no text of the server's ever becomes HTML.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def page_routes() -> list[Route]:
    """``GET /`` and what it loads, ``/page/NAME``; without the API key, which the page itself asks for."""
    found = {path.name: path.read_bytes() for path in (files("deploy.serving") / "static").iterdir()}
    paths = {f"/page/{name}": name for name in found} | {"/": "index.html"}
    return [Route(path, partial(_file, found[name], _type(name))) for path, name in paths.items()]


async def _file(body: bytes, media_type: str, request: Request) -> Response:
    return Response(body, media_type=media_type, headers=_HEADERS)


def _type(name: str) -> str:
    return _TYPES[name[name.rindex(".") :]]

"""Who may ask: who has the API key, and no page of another site."""

from __future__ import annotations

import hmac
import ipaddress

NO_KEY = "the API key is missing or wrong"
OTHER_SITE = "pages of other sites may not ask (behind a proxy: give an API key, pass the Host header on)"


def has_key(authorization: str, key: str) -> bool:
    """Whether a header ``Authorization: Bearer KEY`` holds ``key``; in a time that tells nothing of it."""
    return hmac.compare_digest(authorization.removeprefix("Bearer ").encode(), key.encode())


def is_loopback(name: str) -> bool:
    """Whether an address or name is this machine's own."""
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return name == "localhost"


def of_another_site(origin: str | None, host: str | None, *, local: bool = False) -> bool:
    """Whether a request comes from a page of another site, as browsers say in ``Origin``.

    Without this, any page that is open in a browser could unload the models of a server on the same machine: a simple
    POST is sent without asking, and loopback is no bound to it. ``local``: the server listens on loopback and has no
    key; then the site must be named as this machine is, for a name of another's may lead to it (DNS rebinding).
    """
    if origin is None:
        return False
    name = (host or "").rpartition(":")[0] if (host or "").rpartition(":")[2].isdigit() else host or ""
    return origin.partition("://")[2] != host or (local and not is_loopback(name))

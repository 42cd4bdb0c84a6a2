"""Who may ask: who has the API key, and no page of another site."""

from __future__ import annotations

import hmac

NO_KEY = "the API key is missing or wrong"


def has_key(authorization: str, key: str) -> bool:
    """Whether a header ``Authorization: Bearer KEY`` holds ``key``; in a time that tells nothing of it."""
    return hmac.compare_digest(authorization.removeprefix("Bearer ").encode(), key.encode())


def of_another_site(origin: str | None, host: str | None) -> bool:
    """Whether a request comes from a page of another site, as browsers say in ``Origin``.

    Without this, any page that is open in a browser could unload the models of a server on the same machine: a simple
    POST is sent without asking, and loopback is no bound to it.
    """
    return origin is not None and origin.partition("://")[2] != host

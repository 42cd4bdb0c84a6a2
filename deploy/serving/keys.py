"""The API key, whichever protocol a request came in."""

from __future__ import annotations

import hmac

NO_KEY = "the API key is missing or wrong"


def has_key(authorization: str, key: str) -> bool:
    """Whether a header ``Authorization: Bearer KEY`` holds ``key``; in a time that tells nothing of it."""
    return hmac.compare_digest(authorization.removeprefix("Bearer ").encode(), key.encode())

"""Weights on the Hugging Face hub, through its own client, whose cache they stay in."""

from __future__ import annotations

from pathlib import Path

from models.download import sha256_of
from models.errors import WeightsUnavailable

FILE = "model.safetensors"


def hub_file(repository: str, timeout: float) -> Path:
    """The safetensors file of ``repository``, from the cache or downloaded; its SHA-256 is the one the hub states.

    Raises:
        WeightsUnavailable: the hub does not answer within ``timeout`` seconds, has no such file, or it is damaged.
    """
    try:
        path = _from_cache(repository) or _downloaded(repository, timeout)
    except ImportError as error:
        raise WeightsUnavailable("the Hugging Face hub needs its client", fix="pip install huggingface_hub") from error
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        what = f"{repository} cannot be downloaded from the Hugging Face hub"
        raise WeightsUnavailable(what, got=reason[0], fix=_by_hand(repository)) from error
    stated = path.resolve().name  # the cache calls a file by its hash, and keeps a link under its own name
    found = sha256_of(path)
    if len(stated) == len(found) and stated != found:
        fix = f"Delete it. {_by_hand(repository)}"
        raise WeightsUnavailable(f"{path} is damaged", got=found, expected=stated, fix=fix)
    return path


def _from_cache(repository: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, FILE)
    return Path(found) if isinstance(found, str) else None


def _downloaded(repository: str, timeout: float) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    # The download itself tries again and again, and says so each time, where nobody answers.
    get_hf_file_metadata(hf_hub_url(repository, FILE), timeout=timeout)
    return Path(hf_hub_download(repository, FILE, etag_timeout=timeout))


def _by_hand(repository: str) -> str:
    return f"Download https://huggingface.co/{repository}/resolve/main/{FILE} elsewhere and give --weights {FILE}."

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
    fix = f"Download https://huggingface.co/{repository}/resolve/main/{FILE} elsewhere and give --weights {FILE}."
    try:
        from huggingface_hub import hf_hub_download

        path = Path(hf_hub_download(repository, FILE, etag_timeout=timeout))
    except ImportError as error:
        raise WeightsUnavailable("the Hugging Face hub needs its client", fix="pip install huggingface_hub") from error
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsUnavailable(
            f"{repository} cannot be downloaded from the Hugging Face hub", got=reason, fix=fix
        ) from error
    stated = path.resolve().name  # the cache calls a file by its hash, and keeps a link under its own name
    found = sha256_of(path)
    if len(stated) == len(found) and stated != found:
        raise WeightsUnavailable(f"{path} is damaged", got=found, expected=stated, fix=f"Delete it. {fix}")
    return path

from __future__ import annotations

import contextlib
import warnings

import pytest

from deploy.images.quiet import pillow_quiet


def warn_from(module: str) -> None:
    warnings.warn_explicit("careful", UserWarning, f"{module}.py", 1, module=module)


def test_only_pillow_is_muted_and_only_inside() -> None:
    with pillow_quiet():
        warn_from("PIL.TiffImagePlugin")
        with pytest.raises(UserWarning, match="careful"):
            warn_from("torch")
    with pytest.raises(UserWarning, match="careful"):
        warn_from("PIL.Image")


def test_overlapping_threads_leave_the_filters_as_they_were() -> None:
    before = list(warnings.filters)
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        # The order of two threads: the first one in is the first one out.
        first.enter_context(pillow_quiet())
        second.enter_context(pillow_quiet())
        first.close()
        warn_from("PIL.Image")
        second.close()
        assert warnings.filters == before

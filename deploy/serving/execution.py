"""Requests joined to one batch, run, and split again. Runs in a worker thread."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

import numpy as np

from deploy.errors import CheckFailed, InputError
from deploy.runtime.base import Array, Runner
from deploy.runtime.rows import infer_rows
from deploy.serving.statistics import Times, spans
from deploy.specs import BATCH, TensorSpec, batch_of

Feeds = Mapping[str, Array]


def batchable(runner: Runner) -> bool:
    """Whether rows of several requests may share a run: every tensor's first axis is the network's batch."""
    batch = batch_of(runner.inputs)
    tensors = (*runner.inputs, *runner.outputs)
    return batch is not None and all(spec.shape and spec.shape[0] == batch for spec in tensors)


def inputs_of(runner: Runner) -> tuple[TensorSpec, ...]:
    """What a request may hold: any number of rows, where a fixed batch is made up from several or padded."""
    if not batchable(runner):
        return runner.inputs
    return tuple(TensorSpec(spec.name, spec.dtype, (BATCH, *spec.shape[1:])) for spec in runner.inputs)


def check(inputs: Sequence[TensorSpec], feeds: Feeds) -> None:
    """Raise :class:`InputError` unless ``feeds`` are exactly ``inputs``."""
    names = [spec.name for spec in inputs]
    if set(feeds) != set(names):
        raise InputError("the inputs have other names", got=sorted(feeds), expected=names)
    for spec in inputs:
        spec.check(feeds[spec.name])


def execute(
    runner: Runner, requests: Sequence[Feeds], rows: Sequence[int], joined: Future[Feeds] | None = None
) -> tuple[list[dict[str, Array]], Times]:
    """The outputs of each request, and what the steps took.

    Args:
        joined: what :func:`join` makes of ``requests``, where another thread is at it.

    Raises:
        CheckFailed: the network gave another number of rows than it was fed.
    """
    marks = [time.perf_counter()]
    feeds = join(requests) if joined is None else joined.result()
    marks.append(time.perf_counter())
    outputs = infer_rows(runner, feeds)
    marks.append(time.perf_counter())
    answers = [outputs] if len(requests) == 1 else _split(outputs, rows)
    marks.append(time.perf_counter())
    return answers, spans(marks)


def join(requests: Sequence[Feeds]) -> Feeds:
    """One batch of all requests' rows."""
    if len(requests) == 1:
        return requests[0]
    return {name: np.concatenate([feeds[name] for feeds in requests]) for name in requests[0]}


def _split(outputs: Feeds, rows: Sequence[int]) -> list[dict[str, Array]]:
    for name, array in outputs.items():
        if not array.shape or len(array) != sum(rows):
            raise CheckFailed(f"output '{name}' has other rows than the inputs", got=array.shape, expected=sum(rows))
    starts = [sum(rows[:index]) for index in range(len(rows))]
    return [
        {name: array[start : start + count] for name, array in outputs.items()} for start, count in zip(starts, rows)
    ]


def zeros(runner: Runner, rows: int) -> dict[str, Array] | None:
    """``rows`` rows of zeros to warm up on; None where an axis other than the batch has no fixed size."""
    batch, feeds = batch_of(runner.inputs), {}
    for spec in runner.inputs:
        dynamic = bool(spec.shape) and isinstance(batch, str) and spec.shape[0] == batch
        shape = (rows, *spec.shape[1:]) if dynamic else spec.shape
        if any(isinstance(dim, str) for dim in shape):
            return None
        feeds[spec.name] = np.zeros([int(dim) for dim in shape], spec.dtype)
    return feeds

"""Runners against a reference on the same inputs, in one pass over the data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from deploy.errors import InputError
from deploy.parity.compare import Accumulator, Comparison
from deploy.runtime.base import Array, Runner
from deploy.runtime.rows import infer_rows
from deploy.specs import TensorSpec


def compare_runners(
    reference: Runner, others: Sequence[Runner], batches: Iterable[Mapping[str, Array]]
) -> list[dict[str, Comparison]]:
    """Run every batch through ``reference`` (named as its inputs) and each of ``others``; compare output by output.

    Tensors are matched by name, or by position where the names differ and the counts agree: files made by different
    tools name them differently.

    Raises:
        InputError: the tensors of a runner do not correspond to the reference's, or there was no batch.
    """
    inputs = [_matched(reference.inputs, other.inputs, "inputs") for other in others]
    outputs = [_matched(reference.outputs, other.outputs, "outputs") for other in others]
    accumulators = [{spec.name: Accumulator() for spec in reference.outputs} for _ in others]
    for feeds in batches:
        wanted = infer_rows(reference, feeds)
        for other, renamed, matched, accumulated in zip(others, inputs, outputs, accumulators):
            got = infer_rows(other, {renamed[name]: array for name, array in feeds.items()})
            for name, value in wanted.items():
                accumulated[name].update(value, got[matched[name]])
    return [{name: accumulator.result() for name, accumulator in per.items()} for per in accumulators]


def _matched(wanted: Sequence[TensorSpec], there: Sequence[TensorSpec], what: str) -> dict[str, str]:
    names, theirs = [spec.name for spec in wanted], [spec.name for spec in there]
    if set(names) == set(theirs):
        return {name: name for name in names}
    if len(names) != len(theirs):
        raise InputError(f"the files have different {what}", got=theirs, expected=names)
    return dict(zip(names, theirs))

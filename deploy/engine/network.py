"""ONNX bytes → a TensorRT network, and the batch sizes it is built for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from deploy.engine.api import Builder, IBuilderConfig, INetworkDefinition, ITensor, OnnxParser, ParserError
from deploy.engine.log import LogLine, failures
from deploy.errors import InputError
from deploy.specs import ShapeProfile

DYNAMIC = -1


def parse_onnx(parser: OnnxParser, onnx: bytes, path: Path | None, title: str, lines: Sequence[LogLine]) -> None:
    """Read ``onnx`` into the parser's network; ``lines`` is the log so far, for failures that carry no node.

    ``path`` is where the file lies whose weights lie beside it.

    Raises:
        InputError: the parser refuses it; the details name each node, its operator and what is wrong with it.
    """
    if parser.parse(onnx, str(path.absolute()) if path else None):
        return
    problems = [describe(parser.get_error(index)) for index in range(parser.num_errors)]
    details = problems or failures(lines)
    raise InputError(
        f"{title} cannot read this ONNX graph",
        got=details[0] if details else "no reason given",
        fix="Change or remove what it names and export again.",
        details=details,
    )


def add_batch_profile(
    builder: Builder, network: INetworkDefinition, config: IBuilderConfig, batch: ShapeProfile
) -> ShapeProfile:
    """Give the batch axis of every input the sizes of ``batch``; return the batch sizes that the plan will take.

    A network of one fixed batch size takes that one alone.

    Raises:
        InputError: the fixed batch is not within ``batch``, or an axis other than the first is dynamic.
    """
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    dynamic = [tensor for tensor in inputs if _has_dynamic_batch(tensor)]
    if not dynamic:
        return _fixed_batch(inputs, batch)
    profile = builder.create_optimization_profile()
    for tensor in dynamic:
        rest = tuple(tensor.shape)[1:]
        profile.set_shape(tensor.name, (batch.min, *rest), (batch.opt, *rest), (batch.max, *rest))
    if config.add_optimization_profile(profile) < 0:
        raise InputError("the builder refuses this batch profile", got=batch)
    return batch


def _has_dynamic_batch(tensor: ITensor) -> bool:
    shape = tuple(tensor.shape)
    if DYNAMIC in shape[1:]:
        raise InputError(
            f"input '{tensor.name}' has a dynamic axis other than the batch",
            got=list(shape),
            expected="only the first axis dynamic",
            fix="Export the model with a fixed image size.",
        )
    return shape[:1] == (DYNAMIC,)


def _fixed_batch(inputs: Sequence[ITensor], batch: ShapeProfile) -> ShapeProfile:
    deepest = max((tuple(tensor.shape) for tensor in inputs), key=len, default=())
    size = int(deepest[0]) if len(deepest) > 1 else 1
    if not batch.min <= size <= batch.max:
        raise InputError(
            "the graph has a fixed batch outside the profile",
            got=f"batch {size}, profile {batch}",
            fix=f"Build with --batch {size}, or export with --batch dynamic.",
        )
    return ShapeProfile(size, size, size)


def describe(error: ParserError) -> str:
    """``node 12 '/head/frob' (Frobnicate): plugin not found``; only the reason where no node is to blame."""
    reason = _readable(error.desc())
    if not error.node_operator():
        return reason
    return f"node {error.node()} '{error.node_name()}' ({error.node_operator()}): {reason}"


def _readable(text: str) -> str:
    """The sentence inside the parser's ``condition && "sentence"``, or the text as it is."""
    sentence = re.search(r'&& "(.+)"', text, re.DOTALL)
    return " ".join((sentence[1] if sentence else text).split())

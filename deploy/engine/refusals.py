"""Layers that a builder has no kernel for, read from its own words.

TensorRT 10 and 11 name the layer as it was fused, ``/features/1/conv/Conv + PWN(/features/1/act/Relu)``, or by the
first and the last node of a region that its compiler took, ``{ForeignNode[/a/Conv.../b/Reshape]}``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from deploy.engine.layers import nodes_named
from deploy.errors import InputError

_WORDS = (
    re.compile(r"Could not find any implementation for node (?P<node>.+)", re.IGNORECASE),
    re.compile(r"(?:\(|^)(?P<node>[^()]+): could not find any supported formats consistent with", re.IGNORECASE),
)
# Too little memory for a kernel that there is: --workspace helps, another graph does not.
_MEMORY = re.compile(r"insufficient (?:workspace|memory)", re.IGNORECASE)
_WHERE = re.compile(r"\. In \w+ at .*")
_REGION = re.compile(r"\{?ForeignNode\[(.+?)\.\.\.(.+)\]\}?")
_MARK = re.compile(r"\[ONNX Layer: (.+?)(?: \| .*?)?\]")


@dataclass(frozen=True)
class Refusal:
    """One layer. ``first`` are the nodes it names; where it is a region they begin it, and ``last`` end it."""

    layer: str
    first: frozenset[str]
    last: frozenset[str] = frozenset()


class NoImplementationError(InputError):
    """The builder has no kernel for ``refusals``. In another precision it may have one."""

    def __init__(self, what: str, refusals: Sequence[Refusal], *, got: str, fix: str, details: Sequence[str]) -> None:
        super().__init__(what, got=got, fix=fix, details=details)
        self.refusals = tuple(refusals)


def refusals(errors: Sequence[str]) -> list[Refusal]:
    """The layers that error messages say there is no kernel for, each once."""
    spoken = [match["node"] for text in errors if not _MEMORY.search(text) for match in _matches(text)]
    return list(dict.fromkeys(_refusal(_trimmed(node)) for node in spoken))


def _matches(text: str) -> list[re.Match[str]]:
    return [match for words in _WORDS if (match := words.search(text))]


def _trimmed(node: str) -> str:
    """Without the sentence around it, which may have ended in ``.)`` and the place in TensorRT's source."""
    node = _WHERE.sub("", node).strip()
    if node.endswith(")") and node.count(")") > node.count("("):
        node = node[:-1]
    return node.rstrip(".").strip()


def _refusal(layer: str) -> Refusal:
    if region := _REGION.fullmatch(layer):
        return Refusal(layer, _names(region[1]), _names(region[2]))
    return Refusal(layer, _names(layer.strip("{}")))


def _names(text: str) -> frozenset[str]:
    return frozenset(_MARK.findall(text)) or nodes_named(text)

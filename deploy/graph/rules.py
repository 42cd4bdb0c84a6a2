"""The rules of INT8 placement: one table of patterns, what becomes of each, why, and who says so.

:mod:`deploy.graph.placement` places by it, ``inspect --placement`` explains by it, docs/precision.md shows it. The base
is FP16. Activations are quantized per tensor, weights per output channel, symmetric and signed, zero-point 0.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import onnx_ir as ir

from deploy.graph.irtools import constant

MIN_CHANNELS = 16
# These give back values they were given.
MOVING = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "MaxPool", "Split", "Slice")
WEIGHTED = ("Conv", "Gemm", "MatMul", "ConvTranspose")
INT8, PASSES, FP16, FP32 = "INT8", "passes INT8 on", "FP16", "FP32"

# A weighted node, and the nodes of the graph's squeeze-and-excitation gates.
Applies = Callable[[ir.Node, Collection[ir.Node]], bool]

_PLACEMENT = "[TensorRT][trt], Q/DQ Layer-Placement Recommendations"
_PROCESSING = "[TensorRT][trt], TensorRT Processing of Q/DQ Networks"
_WEIGHTS = "[TensorRT][trt], Quantized Weights"
_MODELOPT = "[ModelOpt][modelopt]"
_LINKS = {
    "trt": "https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-explicit-quantization.html",
    "modelopt": "https://github.com/NVIDIA/Model-Optimizer/blob/main/modelopt/onnx/quantization/graph_utils.py",
}


@dataclass(frozen=True)
class Rule:
    """One row.

    Attributes:
        name: what reports call it.
        pattern: what in a graph it is about.
        precision: what becomes of that.
        why: the reason, mostly what TensorRT fuses.
        source: who says so.
        reason: as said of one node that stays FP16 by it.
        applies: whether a weighted node stays FP16 by it; None for rows that are about other things.
    """

    name: str
    pattern: str
    precision: str
    why: str
    source: str
    reason: str = ""
    applies: Applies | None = None


CONVOLUTION = Rule(
    "convolution",
    "convolution, the first one and depthwise ones too: its input and its weight",
    INT8,
    "where the time goes; both DequantizeLinear fuse into one INT8 kernel with it",
    f"{_PLACEMENT}: quantize all inputs of weighted operations",
)
FULLY_CONNECTED = Rule(
    "fully connected",
    "Gemm, and MatMul with a constant matrix: input and weight",
    INT8,
    "it too is one INT8 kernel then",
    f"{_PLACEMENT}: quantize all inputs of weighted operations",
)
SKIP_BRANCH = Rule(
    "skip branch",
    "residual Add one branch of which ends in an INT8 convolution: the other branch",
    INT8,
    "the Add then fuses into that convolution, which may write INT8",
    f"{_PLACEMENT}: quantize the residual input in skip connections; {_MODELOPT}, `build_non_residual_input_map`",
)
SPLIT = Rule(
    "before a Split",
    "tensor whose parts behind a Split are all read in INT8",
    INT8,
    "one pair before the Split, which INT8 passes: both halves of a ShuffleNet block travel in INT8",
    f"{_PROCESSING}: Q moves back, DQ forward over layers that commute with them",
)
CONCAT = Rule(
    "Concat",
    "tensors that a Concat read in INT8 joins",
    "INT8, one scale",
    "or each would be requantized on its way into the Concat",
    f"{_MODELOPT}, `get_concat_eliminated_tensors`",
)
MOVES = Rule(
    "only moves values",
    f"{', '.join(MOVING)}, Concat",
    PASSES,
    "no pair of its own: it computes on INT8 where what reads it is INT8",
    _PROCESSING,
)
OUTPUT = Rule(
    "output",
    "output of a convolution or product, and the branch of an Add that it ends",
    FP16,
    "what follows it in the same kernel reads it unrounded",
    f"{_PLACEMENT}: by default, do not quantize the outputs of weighted operations",
)
ARITHMETIC = Rule(
    "arithmetic",
    "activation, pool, Mul, Resize, Pad, Softmax and all else without a weight",
    FP16,
    "a pair that cannot fuse is a slow copy",
    f"{_PLACEMENT}: be conservative when adding Q/DQ layers",
)
NO_CONVOLUTION = Rule(
    "no convolution to fuse with",
    "residual Add no branch of which ends in an INT8 convolution that it alone reads",
    FP16,
    "nothing would fuse: an activation lies between, or another reader",
    f"{_PLACEMENT}: be conservative when adding Q/DQ layers",
    "neither branch is an INT8 convolution that only it reads: nothing would fuse",
)
GATE = Rule(
    "gate",
    "convolution or product in a squeeze-and-excitation gate (pool → fc → sigmoid)",
    FP16,
    "tiny, and a scale error there scales whole channels",
    "ours; the gate: [arXiv 1709.01507](https://arxiv.org/abs/1709.01507)",
    "it is part of a squeeze-and-excitation gate: tiny, and a scale error there scales whole channels",
    lambda node, gates: node in gates,
)
NO_CONSTANT = Rule(
    "weight not constant",
    "convolution or product of two computed tensors (attention)",
    FP16,
    "there are no channels to scale one by one beforehand",
    _WEIGHTS,
    "its weight is not constant",
    lambda node, gates: constant(node.inputs[1]) is None,
)
TRANSPOSED_INPUT = Rule(
    "transposed input",
    "Gemm that transposes its activations",
    FP16,
    "its batch is not the first axis",
    "ours",
    "it transposes its activations",
    lambda node, gates: node.op_type == "Gemm" and attribute(node, "transA") == 1,
)
TRANSPOSED_CONVOLUTION = Rule(
    "transposed convolution",
    "transposed convolution",
    FP16,
    "no network here has one to measure INT8 on; TensorRT would take it",
    "ours",
    "it is a transposed convolution",
    lambda node, gates: node.op_type == "ConvTranspose",
)
BATCH_OF_MATRICES = Rule(
    "batch of matrices",
    "MatMul with a constant that is no matrix",
    FP16,
    "it has no one axis of output channels to scale",
    "ours",
    "its weight has no output channels (not a matrix)",
    lambda node, gates: channels(node) is None,
)
FEW_CHANNELS = Rule(
    "few channels",
    f"fewer than {MIN_CHANNELS} output channels",
    FP16,
    "an INT8 kernel pads the channels to its tile and costs more than FP16",
    f"{_MODELOPT}, `find_nodes_from_convs_to_exclude`",
    f"it has fewer than {MIN_CHANNELS} output channels",
    lambda node, gates: (channels(node) or 0) < MIN_CHANNELS,
)
BIAS = Rule(
    "bias",
    "bias",
    FP16,
    "added to the sums before they are rounded",
    f"{_PLACEMENT}: of inputs and weights alone",
)
DEAD = Rule(
    "dead input",
    "reader of a tensor that was zero on every image",
    FP16,
    "it has no range",
    "ours",
)
RANGE = Rule(
    "outside FP16",
    "node whose weight FP16 cannot hold, or whose tensors leave its range on real images",
    FP32,
    "it would overflow, or be rounded to zero",
    "IEEE 754 binary16: at most 65504, at least 2⁻¹⁴ in full precision",
)
COORDINATES = Rule(
    "coordinates",
    "arithmetic that makes a detector's boxes",
    FP32,
    "above 512 FP16 counts in half pixels",
    "IEEE 754 binary16: 11 bits",
)

# Of the rows that apply to a weighted node the first one counts.
RULES = (
    *(CONVOLUTION, FULLY_CONNECTED, SKIP_BRANCH, SPLIT, CONCAT, MOVES),
    *(OUTPUT, ARITHMETIC, NO_CONVOLUTION, GATE, NO_CONSTANT, TRANSPOSED_INPUT, TRANSPOSED_CONVOLUTION),
    *(BATCH_OF_MATRICES, FEW_CHANNELS, BIAS, DEAD, RANGE, COORDINATES),
)


def rule_of(node: ir.Node, gates: Collection[ir.Node]) -> Rule:
    """The row that decides on a weighted node: the first exception, or that of its operator."""
    exceptions = (rule for rule in RULES if rule.applies is not None and rule.applies(node, gates))
    return next(exceptions, quantizing(node))


def quantizing(node: ir.Node) -> Rule:
    """The row by which a weighted node is INT8 where it is."""
    return CONVOLUTION if node.op_type in ("Conv", "ConvTranspose") else FULLY_CONNECTED


def channels(node: ir.Node) -> int | None:
    """The output channels of a weighted node; None where its weight has no axis of them."""
    weight = constant(node.inputs[1])
    # A MatMul weight of higher rank is a batch of matrices: it has no one axis of output channels.
    if weight is None or (node.op_type in ("Gemm", "MatMul") and weight.ndim != 2):
        return None
    return int(weight.shape[channel_axis(node)])


def channel_axis(node: ir.Node) -> int:
    """The axis of a weight's output channels."""
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB") else 1
    return 0 if node.op_type == "Conv" else 1


def attribute(node: ir.Node, name: str) -> int:
    """An integer attribute, 0 where it is left out."""
    found = node.attributes.get(name)
    return 0 if found is None else found.as_int()


def markdown() -> str:
    """The table, as docs/precision.md shows it, with its links behind it."""
    rows = [(rule.pattern, rule.precision, rule.why, rule.source) for rule in RULES]
    head = [("pattern", "becomes", "why", "source"), ("---",) * 4]
    table = "".join(f"| {' | '.join(row)} |\n" for row in [*head, *rows])
    links = "".join(f"[{name}]: {link}\n" for name, link in _LINKS.items())
    return f"{table}\n{links}"

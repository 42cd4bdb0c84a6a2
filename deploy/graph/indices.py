"""How large the numbers fed to a graph may be: integer inputs that pick rows of a table."""

from __future__ import annotations

import onnx_ir as ir

# What hands on the integers it was given.
_PASSING = frozenset({"Cast", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand"})


def index_limits(model: ir.Model) -> dict[str, int]:
    """Integer input → rows of the smallest table it picks from. Inputs that pick from none are not named."""
    found = ((str(value.name), _tables(value)) for value in model.graph.inputs if _is_integer(value))
    return {name: min(tables) for name, tables in found if tables}


def _is_integer(value: ir.Value) -> bool:
    return value.dtype in (ir.DataType.INT32, ir.DataType.INT64)


def _tables(value: ir.Value) -> list[int]:
    """The rows of every table that ``value`` is an index into."""
    rows: list[int] = []
    for node, index in value.uses():
        if node.op_type == "Gather" and index == 1:
            table, axis = node.inputs[0], node.attributes.get("axis")
            size = None if table is None or table.shape is None else table.shape[axis.as_int() if axis else 0]
            rows += [size] if isinstance(size, int) else []
        elif node.op_type in _PASSING and index == 0:
            rows += _tables(node.outputs[0])
    return rows

"""Make the compact tables beside this file from full ones: ``python tests/tensorrt_api/compact.py SOURCE…``

A source is a full table, a folder of them (``tensorrt-10.3.json`` …), or an installed module, ``tensorrt`` or
``tensorrt_rtx``, which is read through the docstrings that pybind11 writes: that is how a new version is added.

A full table is ``{"version", "api": {name: {"kind": "class", "members": {member: what}} | {"kind": "enum", "members":
[…]} | {"kind": "function"}}}``, where ``what`` is ``property ro``, ``property rw``, ``attribute``, ``enum:A,B`` or the
docstring's signatures. Of it the compact one keeps what building, running and inspecting engines can want, in the words
that ``tables.py`` explains.
"""

import importlib
import inspect
import json
import re
import sys
from pathlib import Path

# fmt: off
CLASSES = [
    "Builder", "EngineInspector", "IBuilderConfig", "ICudaEngine", "IExecutionContext", "IHostMemory", "ILayer",
    "ILogger", "INetworkDefinition", "IOptimizationProfile", "IProfiler", "IProgressMonitor", "IRuntimeCache",
    "IRuntimeConfig", "ISerializationConfig", "IStreamReaderV2", "ITensor", "ITimingCache", "Logger",
    "OnnxParser", "OnnxParserRefitter", "ParserError", "Refitter", "Runtime",
]
ENUMS = [
    "BuilderFlag", "ComputeCapability", "CudaGraphStrategy", "DataType", "DeviceType",
    "DynamicShapesKernelSpecializationStrategy", "EngineCapability", "EngineInvalidityDiagnostics", "EngineStat",
    "EngineValidity", "ErrorCode", "ErrorCodeTRT", "ExecutionContextAllocationStrategy",
    "HardwareCompatibilityLevel", "LayerInformationFormat", "LayerType", "MemoryPoolType",
    "NetworkDefinitionCreationFlag", "OnnxParserFlag", "PreviewFeature", "ProfilingVerbosity", "QuantizationFlag",
    "RuntimePlatform", "SerializationFlag", "TacticSource", "TempfileControlFlag", "TensorFormat", "TensorIOMode",
    "TensorLocation", "TilingOptimizationLevel",
]
# fmt: on
# Networks come from the ONNX parser: the sixty methods that add a layer would double the tables.
LEFT_OUT = re.compile(r"INetworkDefinition\.add_(?!input)")
KINDS = {"property ro": "ro", "property rw": "rw", "attribute": "="}


def compact(full):
    """The compact table of a full one."""
    api = full["api"]
    classes = {name: api[name]["members"] for name in CLASSES if name in api}
    return {
        "version": full["version"],
        "classes": {name: compact_class(name, members, api) for name, members in classes.items()},
        "enums": {name: sorted(api[name]["members"]) for name in ENUMS if name in api},
        "functions": sorted(name for name, entry in api.items() if entry["kind"] == "function"),
    }


def compact_class(name, members, api):
    kept = {member: what for member, what in sorted(members.items()) if not LEFT_OUT.match(f"{name}.{member}")}
    return {member: compact_member(what, api) for member, what in kept.items()}


def compact_member(what, api):
    if isinstance(what, str):
        return KINDS.get(what, what)
    signatures = [signature(text, api) for text in what if "(*args, **kwargs)" not in text]
    # Overloads that differ in types alone are one to this check.
    return "|".join(dict.fromkeys(signatures))


def signature(text, api):
    """``f(self: A, flag: B = <B.C: 0>, at: int) -> D`` → ``(flag=,at)D``; results of other classes are left out."""
    inside, _, returned = text.partition("(")[2].rpartition(") -> ")
    parameters = [part.strip() for part in split(inside) if part.split(":")[0].strip() != "self"]
    names = [part.split(":")[0].strip() + ("=" if " = " in part else "") for part in parameters]
    return f"({','.join(names)}){known_class(returned, api)}"


def split(text):
    """The parts between commas that stand in no brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[(<{") - (character in "])>}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part for part in parts if part]


def known_class(returned, api):
    """The class among those kept that a result is of, or nothing; docstrings give some by their names in C++."""
    name = returned.rpartition("::")[2].rpartition(".")[2]
    return next((each for each in (name, name.removeprefix("I")) if each in CLASSES and each in api), "")


def introspect(module):
    """The full table of an installed module."""
    public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    entries = {name: entry(value) for name, value in public.items() if belongs(value, module)}
    return {"version": module.__version__, "api": entries}


def belongs(value, module):
    return (inspect.isclass(value) or callable(value)) and str(value.__module__).startswith(module.__name__)


def entry(value):
    if not inspect.isclass(value):
        return {"kind": "function"}
    if hasattr(value, "__members__"):
        return {"kind": "enum", "members": list(value.__members__)}
    names = [name for name in dir(value) if not name.startswith("_") or name == "__init__"]
    return {"kind": "class", "members": {name: member(inspect.getattr_static(value, name)) for name in names}}


def member(value):
    if isinstance(value, property):
        return "property ro" if value.fset is None else "property rw"
    if inspect.isclass(value) and hasattr(value, "__members__"):
        return "enum:" + ",".join(sorted(value.__members__))
    lines = (inspect.getdoc(value) or "").splitlines() if callable(value) else []
    found = [line.split(". ", 1)[-1].strip() for line in lines if re.match(r"(\d+\. )?\w+\(.*\) -> ", line)]
    return found or "attribute"


def text(table):
    """The table as JSON, a class or an enumeration to the line."""
    rows = {group: [f"  {json.dumps(name)}: {dense(row)}" for name, row in table[group].items()] for group in GROUPS}
    groups = [f' "{group}": {{\n' + ",\n".join(lines) + "\n }" for group, lines in rows.items()]
    ends = [f' "version": {json.dumps(table["version"])}', *groups, f' "functions": {dense(table["functions"])}']
    return "{\n" + ",\n".join(ends) + "\n}\n"


GROUPS = ("classes", "enums")


def dense(value):
    return json.dumps(value, separators=(",", ":"))


def sources(arguments):
    """(flavour, full table) of each argument; lean runtimes have a part of the same API, and are passed over."""
    for argument in arguments:
        path = Path(argument)
        if not path.exists():
            yield argument, introspect(importlib.import_module(argument))
            continue
        for each in sorted(path.glob("tensorrt*-*.json")) if path.is_dir() else [path]:
            flavour = each.name.split("-")[0]
            if "lean" not in flavour:
                yield flavour, json.loads(each.read_text())


def main():
    for flavour, full in sources(sys.argv[1:]):
        release = ".".join(full["version"].split(".")[:2])
        target = Path(__file__).with_name(f"{flavour}-{release}.json")
        target.write_text(text(compact(full)))
        print(target, target.stat().st_size, "bytes")


if __name__ == "__main__":
    main()

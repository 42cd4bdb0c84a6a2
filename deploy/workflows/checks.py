"""What a build refuses before it begins: options that contradict each other, the graph or the flavour."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from deploy.artifacts import check_writable
from deploy.engine.flavours import Flavour
from deploy.engine.options import check_supported
from deploy.engine.plan import quoted
from deploy.errors import InputError
from deploy.graph import files
from deploy.specs import Precision, batch_of
from deploy.workflows.implicit import check_tensors
from deploy.workflows.request import BuildRequest
from deploy.workflows.source import Source


def check_options(request: BuildRequest, flavour: Flavour | None) -> None:
    """What would be refused only after minutes of calibration is refused now."""
    if request.calibration_images and request.calibration_data is None:
        raise InputError("--calibration-images counts images", got="no --calibration-data", fix="Give both, or none.")
    _check_int8_alone(request)
    _check_cache(request)
    suffix = request.file.suffix if request.file else None
    if flavour is None:
        if suffix not in (None, ".onnx"):
            raise InputError("--backend none makes a graph", got=request.file, expected="-o FILE.onnx")
        _check_no_builder(request)
        return
    if suffix == ".onnx":
        raise InputError(f"an engine is not an .onnx file: {request.file}", expected="-o FILE.plan")
    check_supported(flavour, request.options)


def _check_no_builder(request: BuildRequest) -> None:
    """Without a builder nobody reads what it is told, nor says what --log would hold."""
    given = ["--log"] if request.log is not None else []
    for option in fields(request.options):
        if getattr(request.options, option.name) != option.default:
            given.append(_flag(option.name))
    if given:
        raise InputError(f"{given[0]} is about the builder", got="--backend none", fix="Leave one of them out.")


def _flag(option: str) -> str:
    """``workspace_gib`` → ``--workspace``."""
    return "--" + option.removesuffix("_gib").replace("_", "-")


def _check_int8_alone(request: BuildRequest) -> None:
    """Options that choose how INT8 is made say nothing of other precisions."""
    options = {
        "--calibration-method": request.calibration_method,
        "--recipe or --without": request.recipe,
        "--keep-int8": request.keep_int8,
    }
    given = [option for option, value in options.items() if value]
    if given and request.precision is not Precision.INT8:
        fix = "Leave that out, or build with --precision int8."
        raise InputError(f"{given[0]} chooses how INT8 is made", got=f"--precision {request.precision}", fix=fix)


def _check_cache(request: BuildRequest) -> None:
    if request.calibration_cache is not None and request.precision is not Precision.INT8:
        raise InputError("--calibration-cache holds INT8 ranges", got=f"--precision {request.precision}")
    if request.cache_to_read is not None and request.calibration_method is not None:
        raise InputError(
            f"{request.cache_to_read} exists: ranges come from it, and nothing is calibrated",
            got=f"--calibration-method {request.calibration_method}",
            fix="Leave one of them out, or give --calibration-cache the name of a new file.",
        )


def check_source(source: Source, request: BuildRequest) -> None:
    """What the graph that was given does not go with. Raises :class:`InputError`."""
    if source.precision is request.precision:
        _check_as_it_is(source, request)
    if request.calibration_cache is not None:
        check_tensors(source)
    axis, batch = batch_of(source.manifest.inputs), request.batch
    if batch is not None and isinstance(axis, int) and (batch.min, batch.max) != (axis, axis):
        fix = "Leave --batch out, or export with --batch dynamic."
        raise InputError(f"{source.path} has a fixed batch", got=f"--batch {batch}", expected=axis, fix=fix)
    if source.precision not in (Precision.FP32, request.precision):
        raise InputError(
            f"{source.path} is an {str(source.precision).upper()} graph already",
            expected=f"the FP32 graph, or --precision {source.precision}",
        )


def _check_as_it_is(source: Source, request: BuildRequest) -> None:
    """A graph that has the precision asked for is built as it is."""
    already = f"{source.path} is {str(source.precision).upper()} already"
    if request.backend == "none":
        raise InputError(f"{already}: without a backend there is nothing to do", fix="Leave out --backend none.")
    options = (request.calibration_method, request.calibration_images, request.calibration_cache, request.recipe)
    if source.precision is Precision.INT8 and any(options):
        raise InputError(f"{already}: nothing to calibrate", fix="Give the FP32 graph, or no calibration options.")
    if request.options.strip_weights and not source.as_filed:
        fix = f"Simplify it first: onnxsim {quoted(source.path)} simple.onnx --target-opset 19. Then build from that."
        raise InputError(f"weights come from a file, and {source.path} is changed before it is built", fix=fix)
    if request.max_drop is not None:
        raise InputError(f"{already}: nothing to choose", fix="Give the FP32 graph, or leave --max-drop out.")


def check_outputs(paths: Sequence[Path], source: Source) -> None:
    """That all ``paths`` can be written, each is another file, and none is read. Raises :class:`InputError`."""
    for path in paths:
        _check_output(path, source)
    resolved = Counter(path.resolve() for path in paths)
    if twice := [path for path in paths if resolved[path.resolve()] > 1]:
        raise InputError(f"two files of this build would be {twice[0]}", fix="Give them different names.")


def _check_output(path: Path, source: Source) -> None:
    check_writable(path)
    if path.exists() and any(path.samefile(read) for read in (source.path, *files.external_files(source.graph))):
        raise InputError(f"{path} is the graph to build from: it will not be overwritten", fix="Give another file.")

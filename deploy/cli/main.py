"""``python -m deploy VERB``: finds the verb, runs it, turns errors into one line and an exit code."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn, Protocol, cast

from deploy import __version__
from deploy.cli.console import Console
from deploy.errors import DeployError, InputError, MachineError

# Verb → what it does. Each is the module deploy.cli.<verb>, imported only when it runs.
VERBS = {
    "export": "a PyTorch model by name → a simplified, verified ONNX graph",
    "build": "an ONNX graph → FP32, FP16 or INT8 graph and TensorRT engine",
    "infer": "images → predictions, by an ONNX graph or an engine",
    "verify": "compare graphs and engines with a reference, number by number",
    "eval": "top-1 and top-5 accuracy on a folder of labelled images",
    "bench": "latency, throughput, memory and power, side by side",
    "inspect": "what a graph or an engine is: manifest, inputs, operators, precisions",
    "serve": "graphs and engines over HTTP and gRPC, batched, for KServe v2 and Triton clients",
    "doctor": "what this machine can do, and what to install for the rest",
}
# Module → the extra that brings it.
_EXTRAS = {
    **dict.fromkeys(("torch", "onnxscript", "onnxsim", "safetensors"), "export"),
    **dict.fromkeys(("tensorrt", "cuda"), "gpu"),
    **dict.fromkeys(("starlette", "uvicorn", "orjson", "prometheus_client"), "serve"),
    "onnxruntime": "cpu",
    "opentelemetry": "otel",
    "tensorrt_rtx": "rtx",
}
INTERRUPTED, BUG = 130, 70  # 128 + SIGINT; EX_SOFTWARE of sysexits.h


class Verb(Protocol):
    """What a verb's module has."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace, console: Console) -> int: ...


class _Parser(argparse.ArgumentParser):
    """argparse, with errors on one line that say what to type next."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message, fix=f"See {self.prog} --help.")


def entry(verb: str | None = None) -> NoReturn:
    """Run the command line and exit; ``verb`` is set by the root scripts (``export.py`` is ``export``)."""
    # Set before PyTorch loads OpenMP: its threads spin where they wait, and on a busy machine that is most of the time.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(main(sys.argv[1:], verb))


def main(argv: Sequence[str], verb: str | None = None) -> int:
    """Run one command and return its exit code (see :mod:`deploy.errors`)."""
    signal.signal(signal.SIGTERM, _terminated)
    console = Console(as_json="--json" in argv)
    try:
        if verb is None:
            return _dispatch(list(argv), console)
        return _run(verb, list(argv), console, sys.argv[0].rsplit("/", 1)[-1])
    except DeployError as error:
        return _fail(console, argv, error, error.exit_code)
    except KeyboardInterrupt:
        return _fail(console, argv, DeployError("interrupted; no file was left half-written"), INTERRUPTED)
    except BrokenPipeError:
        return 0  # the reader of our output has gone (| head): it has what it wanted
    except Exception as error:  # noqa: BLE001 - the last line of defence: a bug must not print a traceback unasked
        missing = _missing_package(error)
        if missing is not None:
            return _fail(console, argv, missing, missing.exit_code)
        fix = "This is a bug: please report it with the output of --debug."
        return _fail(console, argv, DeployError(f"{type(error).__name__}: {error}", fix=fix), BUG)


def _fail(console: Console, argv: Sequence[str], error: DeployError, exit_code: int) -> int:
    console.error(error, exit_code)
    if "--debug" in argv:
        import traceback  # not at the top: it costs every command some milliseconds

        traceback.print_exc()
    return exit_code


def _missing_package(error: Exception) -> MachineError | None:
    """The error for a package of an extra that is not installed; None for anything else."""
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if package not in _EXTRAS:
        return None
    fix = f"pip install '.[{_EXTRAS[package]}]'"
    return MachineError(f"this command needs {package}, which is not installed", fix=fix)


def _terminated(signum: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM unwinds like Ctrl-C, so that temporary files go."""
    raise KeyboardInterrupt


def _dispatch(argv: list[str], console: Console) -> int:
    parser = _Parser(
        prog="python -m deploy",
        description="PyTorch CNNs through ONNX to FP16/INT8 TensorRT engines.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="verbs:\n" + "\n".join(f"  {name:<8} {text}" for name, text in VERBS.items()),
    )
    parser.add_argument("--version", action="version", version=f"deploy-toolkit {__version__}")
    parser.add_argument("verb", metavar="VERB", choices=VERBS, help="one of the verbs below; VERB --help tells more")
    parsed, _ = parser.parse_known_args(argv[:1])
    return _run(parsed.verb, argv[1:], console, f"python -m deploy {parsed.verb}")


def _run(verb: str, argv: list[str], console: Console, prog: str) -> int:
    module = cast("Verb", importlib.import_module(f"deploy.cli.{verb}"))
    parser = _Parser(prog=prog, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    module.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document to stdout and nothing else there")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    arguments = parser.parse_args(argv)
    with console.others_to_stderr():
        return module.run(arguments, console)

"""What importing a module brings with it, seen from fresh interpreters."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

from commands import REPOSITORY, environment

import deploy
import models

HEAVY = ("torch", "torchvision", "onnx", "onnx_ir", "onnxruntime", "onnxsim", "tensorrt", "tensorrt_rtx", "rich", "PIL")
# Export needs PyTorch, and so does what runs it.
WITH_TORCH = ("deploy.graph.export", "deploy.runtime.networks", "deploy.runtime.pytorch", "deploy.workflows.export")
VOCABULARY = ("deploy.errors", "deploy.specs", "deploy.artifacts", "deploy.manifest", "deploy.tools", "deploy.hardware")

# Imports each module in turn; prints `module: package` for the first one that brings a package that is watched.
PROBE = """
import importlib, sys
watched, seen = sys.argv[1].split(","), set()
for module in sys.argv[2:]:
    importlib.import_module(module)
    for package in watched:
        if package in sys.modules and package not in seen:
            seen.add(package)
            print(f"{module}: {package}")
"""

# Prints the modules that cannot be imported where there is neither torch nor models.
WITHOUT_TORCH = """
import importlib, sys
sys.modules["torch"] = sys.modules["models"] = None
for module in sys.argv[1:]:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        lacking = error.name.partition(".")[0]
        assert lacking in ("torch", "models", "pycuda"), error  # pycuda is optional, and pip compiles it
        if lacking != "pycuda":
            print(module)
"""


def modules_of(package: object) -> list[str]:
    names = [info.name for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    return [name for name in names if not name.endswith("__main__")]


def brought_by(modules: list[str] | tuple[str, ...], watched: tuple[str, ...]) -> list[str]:
    command = [sys.executable, "-c", PROBE, ",".join(watched), *modules]
    env = environment(PYTHONPATH=str(REPOSITORY))
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env, timeout=120)
    return done.stdout.splitlines()


def test_the_walk_finds_the_code():
    assert len(modules_of(deploy)) > 60
    assert set(WITH_TORCH) | set(VOCABULARY) <= set(modules_of(deploy))


def test_only_export_and_the_pytorch_runner_need_torch():
    """Where torch cannot be imported, all but these can (onnxsim takes torch along where it is, and does without)."""
    env = environment(PYTHONPATH=str(REPOSITORY))
    command = [sys.executable, "-c", WITHOUT_TORCH, *modules_of(deploy)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env, timeout=120)
    assert sorted(done.stdout.splitlines()) == sorted(WITH_TORCH)


def test_the_vocabulary_needs_the_standard_library_alone():
    assert brought_by(VOCABULARY, (*HEAVY, "numpy")) == []


def test_the_command_line_imports_nothing_heavy_before_a_verb_runs():
    verbs = [name for name in modules_of(deploy) if name.startswith("deploy.cli.")]
    scripts = ["export", "build_engine", "infer"]
    assert brought_by([*verbs, *scripts], (*HEAVY, "numpy", "models")) == []


def test_models_know_nothing_of_deploy():
    assert brought_by(modules_of(models), ("deploy", "onnx", "onnxruntime", "torchvision")) == []

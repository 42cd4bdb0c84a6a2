"""Exit codes, streams and tracebacks, whatever the verb."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import REPOSITORY, Cli, environment, script

from deploy import __version__
from deploy.cli.console import Console
from deploy.cli.main import VERBS, main


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_answers_an_unknown_flag_in_one_line(cli: Cli, empty: Path, verb: str):
    argv = {"build": ["a.onnx", "--precision", "fp16"], "infer": ["--engine", "a.onnx", "b.png"]}.get(verb, [])
    argv = {"verify": ["a", "b"], "eval": ["a", "--data", "b"], "inspect": ["a"]}.get(verb, argv)
    argv = ["a"] if verb in ("bench", "serve") else argv
    error = cli.refused(2, verb, *argv, "--bogus")
    assert error == f"unrecognized arguments: --bogus. See {verb}.py --help."


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(cli: Cli, capsys: pytest.CaptureFixture[str], verb: str):
    with pytest.raises(SystemExit) as ended:
        cli(verb, "--help")
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "--json" in text
    assert "--debug" in text
    assert {"export": "python export.py", "build": "python build_engine.py", "infer": "python infer.py"}.get(
        verb, f"python -m deploy {verb}"
    ) in text


def test_required_arguments_are_named(cli: Cli, empty: Path):
    error = cli.refused(2, "infer")
    assert error == "the following arguments are required: --engine, IMAGE|DIR. See infer.py --help."


def test_a_value_that_is_none_of_the_choices(cli: Cli, empty: Path):
    assert "invalid choice: 'int4' (choose from" in cli.refused(2, "build", "a.onnx", "--precision", "int4")


def test_an_unknown_verb_names_the_verbs(capsys: pytest.CaptureFixture[str]):
    assert main(["exprot"]) == 2
    err = capsys.readouterr().err
    assert all(f"'{verb}'" in err for verb in VERBS)
    assert main([]) == 2
    assert "required: VERB" in capsys.readouterr().err


def test_the_version(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"deploy-toolkit {__version__}\n"


def test_a_traceback_only_with_debug(cli: Cli, empty: Path):
    assert "Traceback" not in cli("export", "--model", "nope").err
    shown = cli("export", "--model", "nope", "--debug")
    assert shown.code == 2
    assert "Traceback (most recent call last)" in shown.err


def test_a_bug_is_one_line_and_70(cli: Cli, empty: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> None:
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr("deploy.workflows.doctor.examine", broken)
    error = cli.refused(70, "doctor")
    assert error == "ZeroDivisionError: on purpose. This is a bug: please report it with the output of --debug."
    assert "in broken" in cli("doctor", "--debug").err


def test_an_interrupt_is_130(cli: Cli, empty: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("deploy.workflows.doctor.examine", interrupted)
    assert cli.refused(130, "doctor").startswith("interrupted")


@pytest.mark.parametrize(
    ("module", "extra"), [("torch", "export"), ("onnxruntime", "cpu"), ("tensorrt_rtx", "rtx"), ("cuda", "gpu")]
)
def test_a_missing_package_names_its_extra(
    cli: Cli, empty: Path, monkeypatch: pytest.MonkeyPatch, module: str, extra: str
):
    def lacking(*_: object) -> None:
        raise ModuleNotFoundError(f"No module named '{module}'", name=f"{module}.sub")

    monkeypatch.setattr("deploy.workflows.doctor.examine", lacking)
    error = cli.refused(3, "doctor")
    assert error == f"this command needs {module}, which is not installed. pip install '.[{extra}]'"


def test_a_missing_module_of_ours_is_a_bug(cli: Cli, empty: Path, monkeypatch: pytest.MonkeyPatch):
    def lacking(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'deploy.gone'", name="deploy.gone")

    monkeypatch.setattr("deploy.workflows.doctor.examine", lacking)
    assert cli.refused(70, "doctor").startswith("ModuleNotFoundError")


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_reader_that_has_gone_is_no_error(tmp_path: Path, flags: list[str]):
    command = [sys.executable, str(REPOSITORY / "export.py"), "--list", *flags]
    pipe = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, env=environment())
    assert pipe.stdout
    assert pipe.stderr
    pipe.stdout.close()
    complaints = pipe.stderr.read()
    pipe.stderr.close()
    assert pipe.wait(60) == 0
    assert complaints == b""


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_full_disk_behind_stdout(tmp_path: Path, flags: list[str]):
    command = [sys.executable, str(REPOSITORY / "export.py"), "--list", *flags]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment())
    assert done.returncode == 3
    assert done.stderr == "error: cannot write to stdout (got no space left on device)\n"


def test_stderr_that_cannot_be_written_stops_no_work(monkeypatch: pytest.MonkeyPatch):
    class Gone:
        def write(self, text: str) -> int:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

        def flush(self) -> None: ...

    monkeypatch.setattr(sys, "stderr", Gone())
    Console().note("a step")
    Console().warn("a warning")


def test_the_modules_entry_is_the_same_command(tmp_path: Path):
    command = [sys.executable, "-m", "deploy", "inspect", "nope.onnx", "--json"]
    env = environment(PYTHONPATH=str(REPOSITORY))
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)
    scripted = script("infer", "--engine", "nope.onnx", "x.png", "--json", cwd=tmp_path)
    for code, out in ((done.returncode, done.stdout), (scripted.code, scripted.out)):
        assert code == 2
        assert json.loads(out)["exit_code"] == 2
    assert "usage" not in done.stderr


def test_warnings_and_errors_go_to_stderr_and_the_document_alone_to_stdout(capsys: pytest.CaptureFixture[str]):
    console = Console(as_json=True)
    console.note("unseen")
    console.text("unseen")
    console.table(["a"], [["unseen"]])
    console.warn("careful")
    console.document({"é": 1})
    out, err = capsys.readouterr()
    assert json.loads(out) == {"é": 1}
    assert err == "warning: careful\n"


def test_a_name_that_is_no_text_does_not_break_the_document(capsys: pytest.CaptureFixture[str]):
    Console(as_json=True).document({"image": "bad\udcff.png", "label": "日本"})
    out = capsys.readouterr().out
    assert json.loads(out.encode("utf-8")) == {"image": "bad\udcff.png", "label": "日本"}

"""The documentation shows what the commands really print; help texts and links are held to it here."""

import re
import shlex
from pathlib import Path

import pytest

from deploy.cli.main import VERBS, main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
HELP = re.compile(r"^\$ (python .* --help)\n((?:(?!\$ |```).*\n)*)", re.MULTILINE)
SCRIPTS = {"export.py": "export", "build_engine.py": "build", "infer.py": "infer"}


def help_blocks():
    return [(page.name, command, shown) for page in PAGES for command, shown in HELP.findall(page.read_text("utf-8"))]


def test_every_script_shows_its_help_somewhere():
    assert {shlex.split(command)[1] for _, command, _ in help_blocks()} == set(SCRIPTS)


@pytest.mark.parametrize(("page", "command", "shown"), help_blocks(), ids=lambda value: value[:30])
def test_help_in_the_documentation_is_the_real_one(page, command, shown, monkeypatch, capsys):
    script = shlex.split(command)[1]
    monkeypatch.setenv("COLUMNS", "118")
    monkeypatch.setattr("sys.argv", [script])
    with pytest.raises(SystemExit):
        main(["--help"], SCRIPTS[script])
    real = "".join(f"{line.rstrip()}\n" for line in capsys.readouterr().out.splitlines())
    assert shown == real, f"run: python docs/refresh.py docs/{page}"


def test_every_verb_has_a_page_that_the_readme_links():
    readme = (ROOT / "README.md").read_text("utf-8")
    for verb in VERBS:
        assert (ROOT / "docs" / f"{verb}.md").is_file()
        assert f"(docs/{verb}.md)" in readme


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text("utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []

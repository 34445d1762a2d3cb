"""What the README says is there, is there."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "ARCHITECTURE.md"]


def test_links_and_pictures_exist() -> None:
    missing = [
        f"{document.name}: {target}"
        for document in DOCUMENTS
        for target in re.findall(r"\]\(([^)#\s]+)", document.read_text())
        if not target.startswith("http") and not (document.parent / target).exists()
    ]
    assert not missing


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert named
    assert not {target for target in named if not re.search(rf"^{target}:", makefile, re.MULTILINE)}


def test_the_tree_exists() -> None:
    tree = re.search(r"```text\n(.*?)```", README, re.DOTALL)
    assert tree
    folders: list[str] = []
    missing = []
    for line in tree[1].splitlines()[1:]:
        depth, name = len(re.match(r"[│ ├└─]*", line)[0]) // 4, re.sub(r"^[│ ├└─]*", "", line)
        name = name.split()[0]
        folders = [*folders[: depth - 1], name]
        if not (ROOT / "/".join(part.rstrip("/") for part in folders)).exists():
            missing.append("/".join(folders))
    assert not missing


def _commands() -> list[str]:
    blocks = re.findall(r"```(?:sh|bash|console)\n(.*?)```", README, re.DOTALL)
    text = "\n".join(blocks).replace("\\\n", " ")
    return sorted(set(re.findall(r"mixlab ((?:[a-z]+ ?){1,2})", text)))


def test_every_command_of_the_readme_is_a_command() -> None:
    assert _commands()
    for words in _commands():
        assert _is_command(words.split()), words


def _is_command(words: list[str]) -> bool:
    """Whether the first word is a command, and the second one of its own where it has any."""
    found = CliRunner().invoke(app, [words[0], "--help"])
    groups = "COMMAND [ARGS]" in found.output
    if found.exit_code == 0 and groups and len(words) > 1:
        found = CliRunner().invoke(app, [*words[:2], "--help"])
    return found.exit_code == 0


@pytest.mark.parametrize("name", ["CHANGELOG.md", "CONTRIBUTING.md", "EXPERIMENTS.md", "LICENSE"])
def test_the_papers_of_the_house_exist(name: str) -> None:
    assert (ROOT / name).read_text().strip()

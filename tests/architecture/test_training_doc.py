"""docs/training.md names options, settings and folders that there are."""

import re
from pathlib import Path

import typer.main

from cli.main import app
from workers.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "training.md").read_text()


def test_every_option_is_one_of_its_command() -> None:
    lines = re.findall(r"^mixlab ([a-z ]+) (--.*)$", TEXT.replace("\\\n", " "), re.MULTILINE)
    assert len(lines) >= 5
    for words, rest in lines:
        command = typer.main.get_command(app)
        for word in words.split():
            command = command.commands[word]  # type: ignore[attr-defined]
        known = {option for one in command.params for option in one.opts}
        assert set(re.findall(r"(?<!\S)--[a-z-]+", rest.split("#")[0])) <= known, words


def test_every_setting_is_one_that_workers_read() -> None:
    named = {name.lower() for name in re.findall(r"MIXLAB_([A-Z_]+)", TEXT)}
    assert {"training_processes", "checkpoint_grace_seconds", "gpus"} <= named
    assert named <= set(WorkerSettings.model_fields)


def test_the_grace_is_as_told() -> None:
    assert (
        f"`MIXLAB_CHECKPOINT_GRACE_SECONDS` ({WorkerSettings().checkpoint_grace_seconds:g})" in TEXT
    )

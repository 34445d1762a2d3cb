"""docs/operations.md names services, options, settings, variables and figures that there are."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from api.settings import Settings
from cli.main import app
from workers.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "operations.md").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
FILES = ["docker-compose.yml", *(f"deploy/{p.name}" for p in (ROOT / "deploy").glob("compose.*"))]
SUBCOMMANDS = {
    "build",
    "run",
    "up",
    "ps",
    "exec",
    "stop",
    "logs",
    "restart",
    "down",
    "config",
    "rm",
}
WITH_VALUE = {"--profile", "-f", "--build-arg", "--scale"}


def _commands() -> list[str]:
    """Every line of a shell block, and every command in the text's backticks."""
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    told = re.findall(r"`((?:docker compose|mixlab|scripts/|python -m|pytest)[^`]*)`", TEXT)
    return [line.split(" #")[0].strip() for line in [*lines, *told] if line.strip()]


COMMANDS = _commands()


def _compose_words(line: str) -> list[list[str]]:
    """The words after each `docker compose` of a line."""
    found = re.findall(r"docker compose ([^|<>&]+)", line)
    return [shlex.split(words) for words in found]


def _split(words: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    options: dict[str, list[str]] = {}
    rest = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        # After the verb, -f is `logs --follow`.
        if word in WITH_VALUE and not (word == "-f" and rest):
            options.setdefault(word, []).append(queue.pop(0))
        else:
            rest.append(word)
    return options, rest


@pytest.mark.parametrize("line", [line for line in COMMANDS if "docker compose" in line])
def test_compose_commands_name_files_profiles_and_services(line: str) -> None:
    for words in _compose_words(line):
        options, rest = _split(words)
        assert all((ROOT / name).is_file() for name in options.get("-f", []))
        profiles = {p for one in COMPOSE["services"].values() for p in one.get("profiles", [])}
        assert set(options.get("--profile", [])) <= profiles
        if not rest:
            continue
        verb, *more = rest
        assert verb in SUBCOMMANDS
        named = [word for word in more if not word.startswith("-")]
        if verb in ("run", "exec"):
            named = named[:1]
        assert set(named) <= set(COMPOSE["services"]) | {"-d"}, line


def _mixlab_lines() -> list[str]:
    found = []
    for line in COMMANDS:
        match = re.search(r"(?:^|api |migrate )mixlab ((?!corpora add|up)[a-z].*)", line)
        if match:
            found.append(match[1].split("|")[0].strip())
    return found


def test_mixlab_commands_and_their_options_exist() -> None:
    lines = _mixlab_lines()
    assert len(lines) >= 8
    for line in lines:
        command: Any = typer.main.get_command(app)
        words = shlex.split(line)
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        assert not hasattr(command, "commands"), line
        known = {option for one in command.params for option in one.opts}
        assert {word for word in words if word.startswith("--")} <= known, line
        needed = [one for one in command.params if one.param_type_name == "argument"]
        assert len([one for one in needed if one.required]) <= len(words), line


def test_scripts_and_modules_exist() -> None:
    scripts = {line.split()[0] for line in COMMANDS if line.startswith("scripts/")}
    assert {"scripts/make-secrets", "scripts/compose-smoke", "scripts/base-images"} <= scripts
    assert all((ROOT / name).stat().st_mode & 0o111 for name in scripts)
    for name in re.findall(r"pytest (\S+\.py)", TEXT):
        assert (ROOT / name).is_file()


def test_every_setting_is_one_that_is_read() -> None:
    named = {name.lower() for name in re.findall(r"MIXLAB_([A-Z_]+)", TEXT)}
    known = set(WorkerSettings.model_fields) | set(Settings.model_fields)
    assert {"retention_days", "ledger_patience_seconds"} <= named
    assert named - {"url", "api_key"} <= known  # the command's own


def test_every_variable_of_the_compose_files_is_told() -> None:
    used = {name for file in FILES for name in re.findall(r"\$\{(\w+)", (ROOT / file).read_text())}
    internal = {
        name for name in used if name.endswith("_CPUS")
    } | {"TRAINING_SLOTS", "WORKER_TRAINING_MEMORY", "EXPORT", "PROCESSES", "SPEC"}  # fmt: skip
    told = set(re.findall(r"`([A-Z_]+)`", TEXT)) | set(re.findall(r"\b([A-Z_]+)=", TEXT))
    assert used - internal <= told


def test_alerts_and_volumes_that_are_named_exist() -> None:
    alerts = (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text()
    named = set(re.findall(r"alert (\w+)", TEXT))
    assert {"NoWorker", "DiskNearlyFull"} <= named
    assert all(f"alert: {name}" in alerts for name in named)


def test_figures_are_those_of_the_settings() -> None:
    workers, api = WorkerSettings(), Settings()
    assert f"taken back {workers.lease_seconds:g} s after" in TEXT
    assert workers.max_failures == 3
    assert "three times at most for the same job" in TEXT
    assert workers.max_retries == 6
    assert "5 s to 5 min later, six times" in TEXT
    assert f"`MIXLAB_RETENTION_DAYS`, {workers.retention_days:g}" in TEXT
    assert f"`MIXLAB_KEY_CACHE_SECONDS` ({api.key_cache_seconds:g})" in TEXT
    assert workers.ledger_patience_seconds == 60
    assert "workers try for a minute" in TEXT
    for name, default in re.findall(r"\$\{(\w+_MEMORY):-(\w+)\}", (ROOT / FILES[0]).read_text()):
        row = next(line for line in TEXT.splitlines() if f"`{name}`" in line and "|" in line)
        assert default in row


def test_capacity_is_as_measured() -> None:
    results = (ROOT / "benchmarks" / "results" / "capacity.md").read_text()
    rows = [line for line in TEXT.splitlines() if line.startswith("| 1,000B tokens")]
    assert len(rows) == 3
    assert all(row in results for row in rows)
    per_run = re.search(r"\| the ledger \| (\d+)\.\d KiB", results)
    assert per_run
    assert f"| {per_run[1]} KiB a proxy run" in TEXT

"""The real server as a process, and Schemathesis with every check against it for a while."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from cli.broker import free_port
from mixlab.ledger import Ledger
from tests.fuzz import world

HOOKS = Path(__file__).parent / "hooks.py"
# Ids that exist are sent this often; else whatever fits the schema, or breaks it.
EXISTING = 0.7
WORDS = {
    "path.job_id": "jobs", "path.corpus_id": "corpora", "path.mixture_id": "mixtures",
    "path.training_id": "trainings", "query.parent": "jobs", "query.corpus_id": "corpora",
    "body.corpus_id": "corpora", "body.mixture_id": "mixtures", "body.recipe": "recipes",
    "body.law": "laws", "query.wait": "seconds",
}  # fmt: skip
# Too long a text in a query is refused for its length before it is looked at.
REFUSED = '["400", "401", "403", "404", "405", "406", "409", "413", "414", "415", "422", "431"]'
# Schemas can't say that proportions sum to 1, or that a path is allowed: 403 and 422 are answers
# to what fits a schema; 409 and 413 are about what there is, and the request as a whole.
ACCEPTED = '["2xx", "304", "401", "403", "404", "409", "413", "422"]'


@dataclass(frozen=True)
class Fuzzed:
    """How it ended."""

    status: int
    report: str


def fuzz(home: Path, seconds: int, *, seed: int | None = None) -> Fuzzed:
    """Fill a service with a few things, keep them going, and fuzz it for so long."""
    ledger = Ledger.open(f"sqlite:///{home / 'ledger.sqlite'}")
    made = world.make(ledger, home)
    config = home / "schemathesis.toml"
    config.write_text(_config(made))
    with _serving(home) as url, world.going_on(ledger, home):
        _warm_up(url, made)
        command = [
            str(Path(sys.executable).parent / "st"), "--no-color", "--config-file", str(config),
            "run", f"{url}/openapi.json", "--checks", "all", "--max-time", str(seconds),
            "--header", f"Authorization: Bearer {made.token}", "--request-timeout", "20",
            "--generation-database", "none", "--suppress-health-check", "all", "--warnings", "off",
        ]  # fmt: skip
        command += [] if seed is None else ["--seed", str(seed)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=home,
            env=os.environ | {"SCHEMATHESIS_HOOKS": ""},
        )  # fmt: skip
    ledger.close()
    log = (home / "api.log").read_text()
    report = done.stdout + done.stderr
    if "Traceback" in log:
        return Fuzzed(done.returncode or 1, f"{report}\n\nThe server's log:\n{log[-20_000:]}")
    return Fuzzed(done.returncode, report)


def _warm_up(url: str, made: world.World) -> None:
    """The first question of this kind loads SciPy, which can take seconds on a busy machine."""
    question = {"mixture_id": made.words["mixtures"][0], "count": 1}
    key = {"Authorization": f"Bearer {made.token}"}
    answer = httpx.post(f"{url}/mixtures/design", json=question, headers=key, timeout=60)
    assert answer.status_code == 200, answer.text


def _config(made: world.World) -> str:
    """Schemathesis's configuration."""
    lines = [f'hooks = "{HOOKS}"']
    for name, words in made.words.items():
        lines += [f"[dictionaries.{name}]", f"values = {words}".replace("'", '"')]
    lines.append("[parameters]")
    lines += [
        f'"{place}" = {{ dictionary = "{name}", probability = {EXISTING} }}'
        for place, name in WORDS.items()
    ]
    lines += ["[checks.positive_data_acceptance]", f"expected-statuses = {ACCEPTED}"]
    lines += ["[checks.negative_data_rejection]", f"expected-statuses = {REFUSED}"]
    return "\n".join(lines) + "\n"


@contextmanager
def _serving(home: Path) -> Iterator[str]:
    port = free_port()
    environment = os.environ | {
        "MIXLAB_HOME": str(home),
        "MIXLAB_PORT": str(port),
        "MIXLAB_BROKER_URL": "redis://127.0.0.1:1/0",
        "MIXLAB_DATA_ROOTS": f'["{home}"]',
        "MIXLAB_ANSWER_SECONDS": "12",  # so that long polls take no more than 8
        "MIXLAB_RATE_PER_KEY": "1000000/minute",
        "MIXLAB_RATE_PER_ADDRESS": "1000000/minute",
        "MIXLAB_CHANGES_PER_KEY": "1000000/minute",
        "MIXLAB_REFUSALS_PER_ADDRESS": "1000000/minute",
    }
    with (
        (home / "api.log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-m", "api"], env=environment, stdout=log, stderr=log
        ) as server,
    ):
        url = f"http://127.0.0.1:{port}"
        try:
            deadline = time.monotonic() + 30
            while not _answers(url):
                assert server.poll() is None, (home / "api.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield url
        finally:
            server.terminate()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/livez", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False

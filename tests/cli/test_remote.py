import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cli import remote
from cli.client import ServiceError
from mixlab.ledger import Ledger
from mixlab.ledger.records import JobKind, Queue

app = typer.Typer()
app.command("add")(remote.corpora_add)
app.command("entropy")(remote.entropy)
app.add_typer(remote.jobs, name="jobs")


def run(service: str, *arguments: str) -> Any:
    done = CliRunner().invoke(app, [*arguments, "--url", service])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


@pytest.fixture
def corpus_id(service: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("code", "legal"):
        (home / f"{name}.jsonl").write_text('{"body": "text"}\n')
    monkeypatch.chdir(home)
    done = run(
        service, "add", "mine", "code=code.jsonl", f"legal={home}/x/../legal.jsonl",
        "--text-field", "body", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    corpus = json.loads(done.stdout)
    assert corpus["spec"]["domains"] == {
        name: {"paths": [str(home / f"{name}.jsonl")], "text_field": "body"}
        for name in ("code", "legal")
    }
    return str(corpus["id"])


def test_a_domain_without_a_path_is_explained(service: str) -> None:
    done = run(service, "add", "mine", "code")
    assert done.exit_code == 2
    assert "DOMAIN=PATH" in done.output


def test_a_domain_may_have_several_paths() -> None:
    found = remote.parse_domains(["a=/x", "b=s3://k/y=1", "a=/z"])
    assert found == {"a": ["/x", "/z"], "b": ["s3://k/y=1"]}


def test_what_the_service_refuses_is_raised(service: str) -> None:
    with pytest.raises(ServiceError, match="allowed"):
        run(service, "add", "mine", "a=/etc/passwd", "b=/etc/hosts")


def test_entropy_waits_for_the_job_and_shows_a_table(
    service: str, ledger: Ledger, corpus_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a worker would do, done between the request and the first look at the job.
    def worked(self: remote.Client, job_id: str, on_progress: Any = None) -> dict[str, Any]:
        ledger.claim(job_id, "worker-1", 60)
        names = ("code", "legal")
        ledger.record_tokens(corpus_id, {name: {"train_tokens": 1234} for name in names})
        entropies = {"shannon": 5.5, "joint": 8.0, "conditional": 2.5}
        ledger.record_entropy(corpus_id, {name: entropies for name in names})
        ledger.succeed(job_id, 1, {"href": f"/corpora/{corpus_id}"})
        return really(self, job_id, on_progress)

    really = remote.Client.result
    monkeypatch.setattr(remote.Client, "result", worked)
    done = run(service, "entropy", corpus_id)
    assert done.exit_code == 0, done.output
    assert "2.5000" in done.stdout
    assert "1,234" in done.stdout


def test_jobs_are_listed_shown_and_cancelled(service: str, ledger: Ledger) -> None:
    job = ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU)
    assert job.id in run(service, "jobs", "list", "--kind", "train").stdout
    listed = json.loads(run(service, "jobs", "list", "--state", "queued", "--json").stdout)
    assert job.id in {entry["id"] for entry in listed["jobs"]}
    assert (
        json.loads(run(service, "jobs", "cancel", job.id, "--json").stdout)["state"] == "cancelled"
    )
    assert "cancelled" in run(service, "jobs", "show", job.id).stdout

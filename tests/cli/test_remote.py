import json
import threading
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cli import jobs, remote
from cli.client import ServiceError
from mixlab.ledger import Ledger
from mixlab.ledger.records import JobKind, Queue

app = typer.Typer()
app.command("add")(remote.corpora_add)
app.command("entropy")(remote.entropy)
app.add_typer(jobs.app, name="jobs")


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


def test_what_is_no_id_asks_for_nothing_else(service: str) -> None:
    for words in (("jobs", "show"), ("jobs", "cancel"), ("jobs", "logs"), ("entropy",)):
        for given in ("../corpora", "job_x/../../corpora", "job_x?wait=1#", "%2e%2e", "jöb", ""):
            done = run(service, *words, given)
            assert done.exit_code == 2, (words, given)
            assert "is no id" in done.output


def test_jobs_are_paused_and_resumed(service: str, ledger: Ledger) -> None:
    job = ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU, priority=7)
    assert "paused" in run(service, "jobs", "pause", job.id).stdout
    shown = run(service, "jobs", "resume", job.id).stdout
    assert "queued" in shown
    assert "priority  7" in shown
    ledger.claim(job.id, "w", 60)
    assert "running, to be paused" in run(service, "jobs", "pause", job.id).stdout
    assert "running, to be cancelled" in run(service, "jobs", "cancel", job.id).stdout


def test_a_jobs_events_are_told_by_lines(service: str, ledger: Ledger) -> None:
    job = ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU)
    ledger.claim(job.id, "worker-9", 60)
    ledger.cancelled(job.id, 1)
    lines = run(service, "jobs", "events", job.id, "--follow").stdout.splitlines()
    assert ["submitted" in lines[0], "worker-9" in lines[1], "cancelled" in lines[2]] == [True] * 3
    told = run(service, "jobs", "events", job.id, "--json").stdout.splitlines()
    assert [json.loads(line)["event"] for line in told] == ["submitted", "started", "cancelled"]


def test_a_jobs_log_is_printed_whole_and_followed(service: str, ledger: Ledger, home: Path) -> None:
    job = ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU)
    assert run(service, "jobs", "logs", job.id).stdout == ""
    ledger.claim(job.id, "w", 60)
    log = home / "logs" / f"{job.id}.1.log"
    log.parent.mkdir(exist_ok=True)
    text = "step 1, loss 3.2 nats €\n" * 6000  # more than a page
    log.write_text(text)
    assert run(service, "jobs", "logs", job.id).stdout == text

    def end() -> None:
        with log.open("a") as file:
            file.write("done\n")
        ledger.succeed(job.id, 1, {})

    timer = threading.Timer(0.5, end)
    timer.start()
    followed = run(service, "jobs", "logs", job.id, "--follow", "--attempt", "1").stdout
    timer.join()
    assert followed == text + "done\n"
    with pytest.raises(ServiceError, match="attempts"):
        run(service, "jobs", "logs", job.id, "--attempt", "2")


def test_control_characters_of_a_log_do_not_reach_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert jobs._harmless("a\x1b[2Jb\n\tc\x07") == "a\ufffd[2Jb\n\tc\ufffd"


def test_a_key_comes_from_the_environment(
    service: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    really = remote.Client.__init__

    def init(self: Any, *about: Any, **more: Any) -> None:
        seen.append(more["api_key"])
        really(self, *about, **more)

    monkeypatch.setattr(remote.Client, "__init__", init)
    monkeypatch.setenv("MIXLAB_API_KEY", "mlk_from_environment")
    with pytest.raises(ServiceError):
        run(service, "jobs", "list")
    with pytest.raises(ServiceError):
        run(service, "jobs", "list", "--api-key", "mlk_from_option")
    assert seen == ["mlk_from_environment", "mlk_from_option"]

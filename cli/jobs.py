"""`mixlab jobs`: list and show jobs, cancel, pause and resume them, read their events and logs."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.client import DEFAULT_URL, Client
from cli.options import ApiKey, AsJson, Url, checked_id, print_json

LOOK_SECONDS = 1.0  # between two looks at a log that grows

app = typer.Typer(
    help="Work under way: list, show, cancel, pause, resume, events, logs.", no_args_is_help=True
)

JobId = Annotated[str, typer.Argument(callback=checked_id, help="As `mixlab jobs list` shows it.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")]


@app.command("list")
def list_jobs(
    state: Annotated[str | None, typer.Option(help="queued, running, waiting, ...")] = None,
    kind: Annotated[
        str | None, typer.Option(help="fit_mixture, train, measure_corpus, ...")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many, newest first.")] = 20,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Jobs, newest first."""
    with Client(url, api_key=api_key) as client:
        page = client.get("/jobs", state=state, kind=kind, page_size=limit)
    if as_json:
        print_json(page)
        return
    Console().print(_table(page["jobs"]))


@app.command("show")
def show_job(
    job_id: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """One job: how far it is, or how it ended."""
    with Client(url, api_key=api_key) as client:
        _show(client.get(f"/jobs/{job_id}"), as_json)


@app.command("cancel")
def cancel_job(
    job_id: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Ask a job and its children to stop."""
    _move(job_id, "cancel", url, api_key, as_json)


@app.command("pause")
def pause_job(
    job_id: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Hold a job and its children; what runs makes a checkpoint first."""
    _move(job_id, "pause", url, api_key, as_json)


@app.command("resume")
def resume_job(
    job_id: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Let a paused job and its children go on."""
    _move(job_id, "resume", url, api_key, as_json)


@app.command("events")
def show_events(
    job_id: JobId,
    follow: Follow = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """What happened to a job, one line an event; as JSON, one object a line."""
    with Client(url, api_key=api_key) as client:
        for event in client.events(job_id, follow=follow):
            if as_json:
                typer.echo(json.dumps(event, ensure_ascii=False))
                continue
            told = ", ".join(f"{name} {value}" for name, value in event["data"].items())
            typer.echo(_harmless(f"{event['at']}  {event['event']:<16} {told}".rstrip()))


@app.command("logs")
def show_log(
    job_id: JobId,
    attempt: Annotated[
        int | None, typer.Option(min=1, help="The last one if left out.", show_default=False)
    ] = None,
    follow: Follow = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """What an attempt of a job wrote."""
    with Client(url, api_key=api_key) as client:
        offset = 0
        while True:
            page = client.get(f"/jobs/{job_id}/logs", attempt=attempt, offset=offset)
            typer.echo(_harmless(page["text"]), nl=False)
            over = page["next_offset"] >= page["size_bytes"] or page["next_offset"] == offset
            if over and (page["finished"] or not follow):
                return
            offset = page["next_offset"]
            if over:
                time.sleep(LOOK_SECONDS)


def _move(job_id: str, move: str, url: str, api_key: str | None, as_json: bool) -> None:
    with Client(url, api_key=api_key) as client:
        _show(client.post(f"/jobs/{job_id}/{move}"), as_json)


def _harmless(text: str) -> str:
    """For a terminal, without the control characters that would be obeyed there."""
    if not sys.stdout.isatty():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def _show(job: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(job)
        return
    lines = {
        "job": job["id"],
        "kind": job["kind"],
        "state": _state(job),
        "done": _how_far(job),
        "attempt": job["attempt"],
        "priority": job["priority"] or None,
        "created": job["created_at"],
        "finished": job["finished_at"],
        "error": job["error"] and job["error"]["detail"],
        "result": job["links"].get("result"),
    }
    for name, value in lines.items():
        if value is not None:
            typer.echo(f"{name:<9} {value}")


def _table(found: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    # An id that is cut is of no use, and 80 columns hold no more than this.
    for column in ("job", "kind", "state"):
        table.add_column(column, no_wrap=True)
    table.add_column("done")
    for job in found:
        table.add_row(job["id"], job["kind"], job["state"], escape(_how_far(job)))
    return table


def _state(job: Mapping[str, Any]) -> str:
    asked = {"cancel_requested_at": "to be cancelled", "pause_requested_at": "to be paused"}
    told = [words for name, words in asked.items() if job[name] and not job["finished_at"]]
    if job["state"] == "paused" or not told:
        return str(job["state"])
    return f"{job['state']}, {told[0]}"


def _how_far(job: Mapping[str, Any]) -> str:
    left = "" if job["eta_seconds"] is None else f", {job['eta_seconds']:.0f} s left"
    return f"{100 * job['fraction']:.0f} % {job['stage'] or ''}{left}".rstrip()

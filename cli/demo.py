"""`mixlab demo`: the main job end to end on real text, through the service's own HTTP API.

Fetches a named corpus, starts the service, registers the domains, asks for a
mixture, and then proves it: a run longer than any proxy run, and bigger runs
on the natural, the uniform and the solved mixture.
"""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from cli import demo_report
from cli.client import TERMINAL, Client
from cli.corpora import default_folder
from cli.up import Stack
from mixlab import report as reports
from mixlab.corpora.catalogue import fetch
from mixlab.recipes import recipe

STAGES = {
    "fetch": "fetch real text",
    "tokenise": "tokenise",
    "entropy": "measure entropies",
    "proxy_runs": "proxy runs",
    "fit": "fit the law, solve",
    "long_run": "longer run on the solved mixture",
    "natural": "bigger run, natural",
    "uniform": "bigger run, uniform",
    "solved": "bigger run, solved",
}
POLL_SECONDS = 1.0


def demo(
    folder: Annotated[Path, typer.Option(help="Where the report and pictures go.")] = Path("demo"),
    corpus: Annotated[str, typer.Option(help="A named corpus.")] = "minipile-small",
    corpora_folder: Annotated[
        Path | None, typer.Option(help="Where fetched corpora are kept.")
    ] = None,
    proxy: Annotated[str, typer.Option(help="Recipe of the proxy runs.")] = "proxy_tiny",
    target: Annotated[str, typer.Option(help="Recipe of the bigger runs.")] = "target_small",
    mixtures: Annotated[int, typer.Option(min=5, help="How many mixtures to try.")] = 14,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Run the main job end to end on real text and write a report with pictures."""
    console = Console(stderr=as_json)
    started = time.monotonic()
    with Progress(
        TextColumn("{task.description:<34}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=console,
    ) as progress:
        bars = Bars(progress)
        with bars.stage("fetch"):
            fetched = fetch(corpus, corpora_folder or default_folder(), progress=bars.of("fetch"))
        home = folder.resolve() / "home"
        shutil.rmtree(home, ignore_errors=True)  # each demo shows the whole road again
        home.mkdir(parents=True)
        with Stack(home, data_roots=[path.parent for path in fetched.domains.values()]) as stack:
            road = Road(Client(stack.base_url), bars, proxy, target, mixtures)
            answers = road.walk(corpus, fetched.domains)
    found = demo_report.build(answers)
    found["seconds"]["total_with_fetch"] = time.monotonic() - started
    _write(found, folder)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        console.print(summary(found))
        console.print(reports.verdict(found))
        console.print(f"Report: {folder / 'report.html'}", highlight=False)


@dataclass
class Bars:
    """One progress bar a stage, and how long each stage took."""

    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)
    _tasks: dict[str, TaskID] = field(default_factory=dict)

    def show(self, stage: str, fraction: float) -> None:
        """Set a stage's bar, adding it when it is first seen."""
        if stage not in self._tasks:
            self._tasks[stage] = self.progress.add_task(STAGES[stage], total=1.0)
        task = self._tasks[stage]
        self.progress.update(task, completed=max(0.0, min(1.0, fraction)))
        if fraction >= 1:
            self.progress.stop_task(task)

    def of(self, stage: str) -> Any:
        """A callback that sets this stage's bar."""
        return lambda fraction: self.show(stage, fraction)

    def stage(self, stage: str) -> "_Timed":
        """Time a stage and fill its bar at its end."""
        return _Timed(self, stage)


@dataclass
class _Timed:
    bars: Bars
    name: str
    started: float = 0.0

    def __enter__(self) -> None:
        self.started = time.monotonic()
        self.bars.show(self.name, 0.0)

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.bars.seconds[self.name] = time.monotonic() - self.started
            self.bars.show(self.name, 1.0)


@dataclass
class Road:
    """The main job, step by step, as any client of the service would walk it."""

    client: Client
    bars: Bars
    proxy: str
    target: str
    mixtures: int

    def walk(self, name: str, domains: Mapping[str, Path]) -> demo_report.Answers:
        """Register, fit, and prove; gives every answer that the report needs."""
        started = time.monotonic()
        paths = {domain: {"paths": [str(path)]} for domain, path in domains.items()}
        corpus = self.client.post("/corpora", {"name": name, "domains": paths})
        mixture = self._fit(corpus["id"])
        proxies = [
            self.client.get(f"/trainings/{run['run_id']}")
            for run in mixture["report"]["proxy_runs"]
            if run["state"] == "used"
        ]
        long_run, targets = self._prove(corpus["id"], mixture)
        self.bars.seconds["total"] = time.monotonic() - started
        return demo_report.Answers(
            corpus=self.client.get(f"/corpora/{corpus['id']}"),
            mixture=mixture,
            proxies=proxies,
            long_run=long_run,
            target_runs=targets,
            seconds=self.bars.seconds,
        )

    def _fit(self, corpus_id: str) -> dict[str, Any]:
        budget = recipe(self.target).tokens
        job = self.client.post(
            "/mixtures/fit",
            {
                "corpus_id": corpus_id,
                "recipe": self.proxy,
                "budget_tokens": budget,
                "constraints": {"max_epochs": 4},
                "design": {"count": self.mixtures, "floor": 0.03, "seed": 0, "repeated_seeds": 2},
            },
        )
        watch = _FitWatch(self.client, self.bars)
        while (job := self.client.get(f"/jobs/{job['id']}"))["state"] not in TERMINAL:
            watch.look(job)
            time.sleep(POLL_SECONDS)
        watch.look(job)
        return self.client.result(job["id"])

    def _prove(
        self, corpus_id: str, mixture: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """The bigger runs and the longer run, all submitted at once: two workers share them."""
        references = mixture["report"]["references"]
        steps = recipe(self.target).tokens // recipe(self.proxy).tokens_per_step
        jobs = {
            kind: self._train(corpus_id, proportions, self.target, kind)
            for kind, proportions in (
                ("solved", mixture["proportions"]),
                ("natural", references["natural"]["proportions"]),
                ("uniform", references["uniform"]["proportions"]),
            )
        }
        jobs["long_run"] = self._train(
            corpus_id, mixture["proportions"], self.proxy, "long_run", steps=steps
        )
        found = self._watch(jobs)
        return found["long_run"], {kind: found[kind] for kind in ("natural", "uniform", "solved")}

    def _train(
        self,
        corpus_id: str,
        proportions: Mapping[str, float],
        recipe_name: str,
        label: str,
        **more: Any,
    ) -> str:
        body = {
            "corpus_id": corpus_id,
            "proportions": proportions,
            "recipe": recipe_name,
            "label": label,
            **more,
        }
        job: str = self.client.post("/trainings", body)["id"]
        return job

    def _watch(self, jobs: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        pending, ended = dict(jobs), {}
        while pending:
            for label, job_id in list(pending.items()):
                job = self.client.get(f"/jobs/{job_id}")
                self.bars.show(label, job["fraction"])
                if job["state"] in TERMINAL:
                    ended[label] = self.client.result(job_id)
                    self.bars.seconds[label] = float(ended[label]["seconds"])
                    self.bars.show(label, 1.0)
                    del pending[label]
            time.sleep(POLL_SECONDS)
        return ended


@dataclass
class _FitWatch:
    """Turns a fit job and its children into the bars of its stages, with their times."""

    client: Client
    bars: Bars
    entered: dict[str, float] = field(default_factory=dict)

    def look(self, job: Mapping[str, Any]) -> None:
        """Show how far each stage of the fit is."""
        children = self.client.get(f"/jobs/{job['id']}/children?page_size=200")["jobs"]
        measuring = [child for child in children if child["kind"] == "measure_corpus"]
        training = [child for child in children if child["kind"] in ("train", "train_proxies")]
        for child in measuring:
            self._measuring(child)
        if training:
            self._enter("proxy_runs")
            done = sum(
                1.0 if child["state"] in TERMINAL else child["fraction"] for child in training
            )
            self._show("proxy_runs", done / len(training))
        if job["state"] in TERMINAL:
            # By the service's clock: it is over before the next look.
            ends = [_moment(child["finished_at"]) for child in children if child["finished_at"]]
            last = max(ends, default=_moment(job["started_at"]))
            self.bars.seconds["fit"] = (_moment(job["finished_at"]) - last).total_seconds()
            self._show("fit", 1.0)

    def _measuring(self, child: Mapping[str, Any]) -> None:
        self._enter("tokenise")
        finished = child["state"] in TERMINAL
        if child["stage"] == "entropy" or finished:
            self._show("tokenise", 1.0)
            self._enter("entropy")
            self._show("entropy", 1.0 if finished else (child["fraction"] - 0.85) / 0.15)
        else:
            self._show("tokenise", child["fraction"] / 0.85)

    def _enter(self, stage: str) -> None:
        self.entered.setdefault(stage, time.monotonic())

    def _show(self, stage: str, fraction: float) -> None:
        self.bars.show(stage, fraction)
        if fraction >= 1 and stage not in self.bars.seconds:
            self.bars.seconds[stage] = time.monotonic() - self.entered[stage]


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def summary(found: Mapping[str, Any]) -> Table:
    """The mixtures and what they measured, as a table for a terminal."""
    kinds = list(found["mixtures"])
    table = Table(title="share of training tokens, and what a bigger run measured")
    table.add_column("")
    for kind in kinds:
        table.add_column(kind.replace("_", " "), justify="right")
    for domain in found["domains"]:
        shares = [f"{100 * found['mixtures'][kind][domain['name']]:.1f} %" for kind in kinds]
        table.add_row(domain["name"], *shares)
    table.add_section()
    for title, key in (
        ("measured loss", "measured_nats"),
        ("measured gain", "measured_gain_nats"),
        ("predicted gain", "predicted_gain_nats"),
    ):
        table.add_row(title, *_cells(found["target_runs"], kinds, key))
    return table


def _cells(runs: Mapping[str, Any], kinds: Sequence[str], key: str) -> list[str]:
    return [f"{runs[kind][key]:+.4f}".lstrip("+") if kind in runs else "" for kind in kinds]


def _write(found: Mapping[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(found, indent=2) + "\n")
    (folder / "report.html").write_text(reports.html(found))
    reports.write_pictures(found, folder)

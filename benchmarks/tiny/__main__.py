"""`make bench-tiny`: what growth, rounds, compression, inheritance and others bring, three seeds.

    python -m benchmarks.tiny [--work FOLDER] [--steps N] [--seeds N] [--only COMPARISON ...]

Fetches `minipile-small`, trains two runs at a time, and goes on where it was stopped: what is in
FOLDER/results.jsonl is not done again. Writes benchmarks/results/tiny-models.md and
docs/images/tiny-models.svg.
"""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import argparse  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from concurrent.futures import ProcessPoolExecutor, as_completed  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from benchmarks.tiny.runs import Run, Setting, coverage, made, make_corpora, runs  # noqa: E402
from benchmarks.tiny.writing import document, picture  # noqa: E402
from mixlab.corpora.catalogue.fetching import fetch  # noqa: E402
from mixlab.mixture import Mixture  # noqa: E402

ROOT = Path(__file__).parents[2]
CACHE = Path.home() / ".cache" / "mixlab"
MIXTURE = Mixture({"code_python": 0.3, "dialogue": 0.3, "legal": 0.2, "web": 0.2})
DONOR = "donor"


def main() -> None:
    """Do the runs that are missing, and write what all of them measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, default=CACHE / "bench-tiny")
    parser.add_argument("--steps", type=int, default=200, help="updates of the baseline")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="comparisons beside the baseline")
    parser.add_argument("--to", type=Path, default=ROOT)
    given = parser.parse_args()
    setting = Setting(given.work / f"{given.steps}", MIXTURE, given.steps)
    setting.work.mkdir(parents=True, exist_ok=True)
    make_corpora(setting, dict(fetch("minipile-small", CACHE / "corpora").domains))
    chosen = [
        run for run in runs(given.seeds)
        if not given.only or run.comparison in ("baseline", *given.only)
    ]  # fmt: skip
    results = measured(setting, chosen)
    facts = {
        "when": time.strftime("%Y-%m-%d"),
        "minutes": sum(run["seconds"] for run in results) / 60 / WORKERS,
        "mixture": ", ".join(f"{name} {share:g}" for name, share in MIXTURE),
        "steps": given.steps,
        "coverage": coverage(setting),
    }
    text = document(results, facts)
    for folder in ("benchmarks/results", "docs/images"):
        (given.to / folder).mkdir(parents=True, exist_ok=True)
    (given.to / "benchmarks" / "results" / "tiny-models.md").write_text(text)
    picture(results, given.to / "docs" / "images" / "tiny-models.svg")
    sys.stdout.write(text)


WORKERS = 2


def measured(setting: Setting, chosen: list[Run]) -> list[dict[str, Any]]:
    """What each run measured; donors first, since heirs need them."""
    file = setting.work / "results.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    found = {Run(r["comparison"], r["variant"], r["seed"]): r for r in map(json.loads, lines)}
    missing = [run for run in chosen if run not in found]
    stages = [
        [run for run in missing if run.variant == DONOR],
        [run for run in missing if run.variant != DONOR],
    ]
    with ProcessPoolExecutor(WORKERS) as office, file.open("a") as kept:
        for stage in stages:
            jobs = {office.submit(made, setting, run): run for run in stage}
            for done in as_completed(jobs):
                found[jobs[done]] = done.result()
                kept.write(json.dumps(done.result()) + "\n")
                kept.flush()
                told = found[jobs[done]]
                sys.stderr.write(
                    f"{len(found)} of {len(chosen)}: {jobs[done].name} {told['bits_per_byte']:.4f} "
                    f"bits per byte, {told['seconds']:.0f} s\n"
                )
    return [found[run] for run in chosen]


if __name__ == "__main__":
    main()

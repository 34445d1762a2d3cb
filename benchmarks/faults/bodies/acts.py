"""Acts: work of a known length with progress, and an effect in the ledger at its end.

{"act": "work", "seconds": S}             progress for S seconds, then a mixture of its own
{"act": "family", "children": [payload]}  child jobs, waited for; the result tells their ends
"""

import importlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from mixlab.ledger.records import JobKind, Queue
from workers.jobs.context import JobContext

Body = Callable[[JobContext], Mapping[str, Any] | None]


def acted_or(kind: str) -> Body:
    """A body that acts where the payload says so, and else does the real job of that name."""

    def run(context: JobContext) -> Mapping[str, Any] | None:
        act = context.job.payload.get("act")
        if act is not None:
            return ACTS[act](context)
        real: Body = importlib.import_module(f"workers.jobs.{kind}").run
        return real(context)

    return run


def _work(context: JobContext) -> Mapping[str, Any]:
    seconds, began = float(context.job.payload["seconds"]), time.monotonic()
    while (gone := time.monotonic() - began) < seconds:
        context.progress("work", gone / seconds)
        time.sleep(0.05)
    made = context.ledger.add_mixture(
        corpus_id=None, job_id=context.job.id, parent_id=None,
        proportions={"a": 1.0}, fit=None, report={"attempt": context.job.attempt},
    )  # fmt: skip
    return {"href": f"/mixtures/{made.id}"}


def _family(context: JobContext) -> Mapping[str, Any] | None:
    children = [
        context.submit_child(JobKind.TRAIN, payload, queue=Queue.GPU, key=str(number))
        for number, payload in enumerate(context.job.payload["children"])
    ]
    if not all(child.state.terminal for child in children):
        context.wait_for_children()
        return None
    return {"ended": [child.state.value for child in children]}


ACTS: dict[str, Body] = {"work": _work, "family": _family}

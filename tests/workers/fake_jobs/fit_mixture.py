"""Submits its payload's children, waits for them, and says how they ended."""

from collections.abc import Mapping
from typing import Any

from mixlab.ledger.records import JobKind, Queue
from workers.jobs.context import JobContext


def run(context: JobContext) -> Mapping[str, Any] | None:
    children = [
        context.submit_child(JobKind.TRAIN, payload, queue=Queue.GPU, key=str(number))
        for number, payload in enumerate(context.job.payload["children"])
    ]
    if not all(child.state.terminal for child in children):
        context.wait_for_children()
        return None
    return {"ended": [child.state.value for child in children]}

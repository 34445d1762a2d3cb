"""Waiting for a corpus to be measured, for the jobs that need one."""

from mixlab.errors import MixlabError, named
from mixlab.ledger.records import Job, JobKind, JobState, Queue
from workers.jobs.context import JobContext


def measured(context: JobContext, corpus_id: str) -> bool:
    """Whether the corpus is measured; if not, a child job does it and this job waits for it.

    Raises what the child met, where the child has failed.
    """
    corpus = context.ledger.corpus(corpus_id)
    if corpus.tokens is not None and corpus.entropy is not None:
        return True
    child = context.submit_child(
        JobKind.MEASURE_CORPUS, {"corpus_id": corpus_id}, queue=Queue.CPU, key="measure"
    )
    if child.state in (JobState.FAILED, JobState.CANCELLED):
        raise error_of(child)
    context.progress("measure", 0.0)
    context.wait_for_children()
    return False


def error_of(child: Job, before: str = "") -> MixlabError:
    """The error that a child job recorded, with `before` in front of what it says."""
    error = child.error or {"type": "mixlab-error", "detail": f"{child.id} was {child.state}"}
    return named(str(error["type"]), before + str(error["detail"]))

"""Waiting for a corpus to be measured, for the jobs that need one."""

from mixlab.corpora.shards import MANIFEST
from mixlab.errors import MixlabError, named
from mixlab.ledger.records import Job, JobKind, JobState, Queue
from workers.jobs.context import JobContext


def measured(context: JobContext, corpus_id: str) -> bool:
    """Whether the corpus is measured, and its shards are there; if not, a child job sees to it.

    This job waits for the child then. Raises what the child met, where the child has failed.
    """
    corpus = context.ledger.corpus(corpus_id)
    there = (context.settings.corpus_folder(corpus_id) / MANIFEST).exists()
    if corpus.tokens is not None and corpus.entropy is not None and there:
        return True
    child = context.submit_child(
        JobKind.MEASURE_CORPUS, {"corpus_id": corpus_id}, queue=Queue.CPU, key="measure"
    )
    if child.state in (JobState.FAILED, JobState.CANCELLED):
        raise error_of(child)
    if child.state is JobState.SUCCEEDED:
        return True  # in another home folder than this worker's: who opens the shards says so
    context.progress("measure", 0.0)
    context.wait_for_children()
    return False


def error_of(child: Job, before: str = "") -> MixlabError:
    """The error that a child job recorded, with `before` in front of what it says."""
    error = child.error or {"type": "mixlab-error", "detail": f"{child.id} was {child.state}"}
    return named(str(error["type"]), before + str(error["detail"]))

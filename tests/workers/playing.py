"""Worker and corpus of the tests of job bodies: the test plays the worker, in its own process."""

from typing import Any

import numpy as np

from mixlab.corpora.shards import write_corpus
from mixlab.ledger import Ledger
from mixlab.ledger.records import Job, JobKind, JobState, Queue, Run
from mixlab.recipes import Recipe
from workers.jobs.context import JobContext
from workers.runner import perform
from workers.settings import WorkerSettings

VOCABULARY = 600  # more than the recipe has


def measured_corpus(ledger: Ledger, settings: WorkerSettings) -> str:
    corpus = ledger.add_corpus("tiny", {"domains": {"law": {"paths": []}, "talk": {"paths": []}}})
    chance = np.random.default_rng(0)
    pieces = {
        name: {"train": chance.integers(1, VOCABULARY, (20, 200)), "validation": [[1, 2, 3]]}
        for name in ("law", "talk")
    }
    write_corpus(settings.corpus_folder(corpus.id), pieces, vocabulary=VOCABULARY, end_of_text_id=0)
    ledger.record_tokens(corpus.id, {"law": {"train_tokens": 4020}, "talk": {"train_tokens": 4020}})
    ledger.record_entropy(corpus.id, {})
    return corpus.id


def submitted(ledger: Ledger, corpus_id: str, recipe: Recipe, **changes: Any) -> Job:
    payload = {
        "corpus_id": corpus_id, "mixture": {"law": 0.75, "talk": 0.25}, "mixture_id": None,
        "recipe": recipe.to_dict(), "seed": 3, "role": "full", "label": "mine",
    }  # fmt: skip
    return ledger.submit(JobKind.TRAIN, {**payload, **changes}, queue=Queue.GPU)


def attempted(ledger: Ledger, settings: WorkerSettings, job: Job) -> int:
    """One attempt; the exit status of its process."""
    claimed = ledger.claim(job.id, "test", 60)
    assert claimed is not None
    return perform(JobContext(claimed, ledger, settings))


def made(ledger: Ledger, job: Job) -> Run:
    ended = ledger.job(job.id)
    assert ended.state is JobState.SUCCEEDED, ended.error
    run = ledger.run_of_job(job.id)
    assert run is not None
    return run


def work(ledger: Ledger, settings: WorkerSettings, job: Job) -> Job:
    """Do a job and its children to the end, as one patient worker would."""
    while not (now := ledger.job(job.id)).state.terminal:
        if now.state is JobState.WAITING:
            for child in ledger.children(job.id):
                work(ledger, settings, child)
        else:
            claimed = ledger.claim(job.id, "test", 60)
            assert claimed is not None
            perform(JobContext(claimed, ledger, settings))
    return now

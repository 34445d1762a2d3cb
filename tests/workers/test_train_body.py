"""The body of a training job on a tiny corpus that is measured already."""

from pathlib import Path

import numpy as np
import pytest

from mixlab.corpora.shards import write_corpus
from mixlab.ledger import Ledger
from mixlab.ledger.records import JobKind, JobState, Queue
from mixlab.recipes import Recipe, proxy_smoke
from workers.jobs.context import JobContext
from workers.runner import perform
from workers.settings import WorkerSettings

VOCABULARY = 600  # more than the recipe has


def test_a_recipe_is_widened_to_the_corpus_and_what_it_measured_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    settings = WorkerSettings(home=tmp_path / "home", threads=1)
    ledger = Ledger.open(settings.database_url.get_secret_value())
    corpus = ledger.add_corpus("tiny", {"domains": {"law": {"paths": []}, "talk": {"paths": []}}})
    chance = np.random.default_rng(0)
    pieces = {
        name: {"train": chance.integers(1, VOCABULARY, (20, 200)), "validation": [[1, 2, 3]]}
        for name in ("law", "talk")
    }
    write_corpus(settings.corpus_folder(corpus.id), pieces, vocabulary=VOCABULARY, end_of_text_id=0)
    ledger.record_tokens(corpus.id, {"law": {"train_tokens": 4020}, "talk": {"train_tokens": 4020}})
    ledger.record_entropy(corpus.id, {})
    recipe = proxy_smoke().lasting(8)
    payload = {
        "corpus_id": corpus.id, "mixture": {"law": 0.75, "talk": 0.25}, "mixture_id": None,
        "recipe": recipe.to_dict(), "seed": 3, "role": "full", "label": "mine",
    }  # fmt: skip
    job = ledger.submit(JobKind.TRAIN, payload, queue=Queue.GPU)
    claimed = ledger.claim(job.id, "test", 60)
    assert claimed is not None
    perform(JobContext(claimed, ledger, settings))
    ended = ledger.job(job.id)
    assert ended.state is JobState.SUCCEEDED, ended.error
    run = ledger.run_of_job(job.id)
    assert run is not None
    assert Recipe.from_dict(dict(run.recipe)) == recipe.for_vocabulary(VOCABULARY)
    assert [seen["step"] for seen in run.observations] == [2, 4, 6, 8]
    consumed = sum(part["tokens"]["law"] for part in run.consumed)
    assert consumed == pytest.approx(0.75 * recipe.tokens, abs=recipe.tokens_per_step)
    ledger.close()

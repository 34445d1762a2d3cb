"""The entropies of a tokenised domain: the same over one shard or many, in flat memory."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixlab.corpora.shards import TokenisedCorpus, write_corpus
from mixlab.entropy.counts import PairCounts, count_blocks
from mixlab.ledger import Ledger
from mixlab.ledger.records import JobKind, Queue
from workers.jobs.context import JobContext
from workers.jobs.measure_corpus import MEASURED, domain_entropy, record_entropies
from workers.settings import WorkerSettings

VOCABULARY = 30_000


def corpus_of(folder: Path, documents: list[np.ndarray], per_shard: int) -> TokenisedCorpus:
    return write_corpus(
        folder,
        {"law": {"train": documents, "validation": [[1, 2]]}},
        vocabulary=VOCABULARY,
        end_of_text_id=0,
        shard_documents=per_shard,
    )


@pytest.mark.parametrize("per_shard", [1, 3, 7, 60])
def test_the_entropies_do_not_depend_on_the_shards(tmp_path: Path, per_shard: int) -> None:
    rng = np.random.default_rng(0)
    documents = [rng.integers(1, 40, 300) for _ in range(60)]
    whole = domain_entropy(corpus_of(tmp_path / "one", documents, 60), "law")
    found = domain_entropy(corpus_of(tmp_path / "many", documents, per_shard), "law")
    assert found.plug_in == whole.plug_in
    assert found.miller_madow == whole.miller_madow
    assert found.tokens == 60 * 300
    assert found.blocks >= 20
    error = whole.standard_error.conditional
    assert found.standard_error.conditional == pytest.approx(error, rel=0.5)


@pytest.mark.parametrize("shards", [5, 40])
def test_memory_holds_few_blocks_however_many_there_are(tmp_path: Path, shards: int) -> None:
    """All documents are equal, so that the whole has no more pairs than a block of it."""
    document = np.random.default_rng(0).integers(1, VOCABULARY, 50_000)
    per_shard = max(1, 20 // shards)
    corpus = corpus_of(tmp_path, [document] * (shards * per_shard), per_shard)
    tracemalloc.start()
    found = domain_entropy(corpus, "law")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.blocks == 20
    counts_of_a_block = 16 * found.distinct_pairs
    assert peak < 20 * counts_of_a_block


class Dying:
    """Counts as `count_blocks` does, and how often; dies at a call."""

    def __init__(self, at_call: int | None = None) -> None:
        self.calls, self.at_call = 0, at_call

    def __call__(self, *arguments: Any, **options: Any) -> list[PairCounts]:
        self.calls += 1
        if self.calls == self.at_call:
            raise MemoryError
        return count_blocks(*arguments, **options)


class TestCrashes:
    @pytest.fixture
    def context(self, tmp_path: Path) -> Iterator[JobContext]:
        settings = WorkerSettings(home=tmp_path)
        ledger = Ledger.open(settings.database_url.get_secret_value())
        corpus_id = ledger.add_corpus("c", {}).id
        self.write(settings, corpus_id, seed=0)
        job = ledger.submit(JobKind.MEASURE_CORPUS, {"corpus_id": corpus_id}, queue=Queue.CPU)
        claimed = ledger.claim(job.id, "w", 60)
        assert claimed is not None
        yield JobContext(claimed, ledger, settings)
        ledger.close()

    def write(self, settings: WorkerSettings, corpus_id: str, seed: int) -> None:
        rng = np.random.default_rng(seed)
        documents = {name: [rng.integers(1, 40, 300) for _ in range(20)] for name in "ab"}
        write_corpus(
            settings.corpus_folder(corpus_id),
            {name: {"train": each, "validation": [[1, 2]]} for name, each in documents.items()},
            vocabulary=VOCABULARY, end_of_text_id=0,
        )  # fmt: skip

    def record(self, context: JobContext, count: Dying) -> dict[str, Any]:
        corpus_id = str(context.job.payload["corpus_id"])
        record_entropies(context, corpus_id, count, begin=0.0)
        return dict(context.ledger.corpus(corpus_id).entropy or {})

    def test_a_domain_that_was_measured_before_a_crash_is_not_counted_again(
        self, context: JobContext
    ) -> None:
        whole = Dying()
        expected = self.record(context, whole)
        folder = context.settings.corpus_folder(str(context.job.payload["corpus_id"]))
        (folder / MEASURED).unlink()

        with pytest.raises(MemoryError):
            self.record(context, Dying(at_call=whole.calls // 2 + 1))  # the second domain's first
        rest = Dying()
        assert self.record(context, rest) == expected
        assert list(expected) == ["a", "b"]
        assert rest.calls == whole.calls // 2

    @pytest.mark.parametrize("broken", ["", "{", "[]", '{"shards": 1}', '{"entropies": {}}'])
    def test_what_is_no_such_record_is_measured_anew(
        self, context: JobContext, broken: str
    ) -> None:
        expected = self.record(context, whole := Dying())
        folder = context.settings.corpus_folder(str(context.job.payload["corpus_id"]))
        (folder / MEASURED).write_text(broken)
        assert self.record(context, again := Dying()) == expected
        assert again.calls == whole.calls

    def test_other_shards_are_measured_anew(self, context: JobContext) -> None:
        before = self.record(context, Dying())
        self.write(context.settings, str(context.job.payload["corpus_id"]), seed=1)
        assert self.record(context, Dying()) != before

"""The entropies of a tokenised domain: the same over one shard or many, in flat memory."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from mixlab.corpora.shards import TokenisedCorpus, write_corpus
from workers.jobs.measure_corpus import domain_entropy

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

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mixlab.compressing import bits_per_byte, check_own, shares_at, text_sizes, token_counts
from mixlab.compressing import compress as compress_tokenizer
from mixlab.compressing.text import TextSize
from mixlab.corpora.sampling import Sampler
from mixlab.corpora.shards import TokenisedCorpus, write_corpus
from mixlab.corpora.tokenising import DomainSource, tokenise
from mixlab.corpora.tokenizer import load_tokenizer, train_tokenizer
from mixlab.errors import DomainTooSmall, EmptyDomain, InvalidCorpus, TruncatedFile
from mixlab.mixture import Mixture
from mixlab.schedules import MixtureSchedule
from tests.compressing.makers import TEXT


def test_counts_are_those_of_every_shard(
    spoken: TokenisedCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mixlab.compressing.counting.CHUNK_TOKENS", 37)
    assert len(spoken.shards("prose", "train")) > 1
    for split in ("train", "validation"):
        counts = token_counts(spoken, split=split)
        for domain in spoken.domains:
            stream = spoken.stream(domain, split)
            expected = Counter(stream.window(0, len(stream)).tolist())
            assert {t: c for t, c in enumerate(counts[domain].tolist()) if c} == expected


def test_shares_at_a_mixture_are_those_of_what_a_run_reads(spoken: TokenisedCorpus) -> None:
    mixture = Mixture({"prose": 0.25, "code": 0.75})
    shares = shares_at(token_counts(spoken), mixture)
    assert shares.sum() == pytest.approx(1)
    # A run of many epochs reads each window of a domain equally often, but for its last token,
    # which has nothing to predict.
    sampler = Sampler(
        {name: spoken.stream(name, "train") for name in spoken.domains},
        MixtureSchedule.of(mixture), context=1, batch_sequences=1000, seed=0,
    )  # fmt: skip
    read = np.zeros(spoken.vocabulary)
    for step in range(40):
        read += np.bincount(sampler.batch(step)[:, 0], minlength=spoken.vocabulary)
    np.testing.assert_allclose(read / read.sum(), shares, atol=0.002)


def test_a_domain_without_share_does_not_count(spoken: TokenisedCorpus) -> None:
    counts = token_counts(spoken)
    alone = shares_at(counts, Mixture({"code": 1.0, "prose": 0.0}))
    np.testing.assert_allclose(alone, counts["code"] / counts["code"].sum())
    with pytest.raises(EmptyDomain, match=r"'other' has a share of 0.5, but no token"):
        shares_at(counts, Mixture({"code": 0.5, "other": 0.5}))
    with pytest.raises(InvalidCorpus, match="no domain 'other'"):
        token_counts(spoken, ["other"])


def test_a_token_beyond_the_vocabulary_is_told(tmp_path: Path) -> None:
    documents = {"a": {"train": [np.array([1, 9])], "validation": [np.array([1])]}}
    corpus = write_corpus(tmp_path, documents, vocabulary=8, end_of_text_id=0)
    with pytest.raises(TruncatedFile, match=r"holds the token 9.*ends at 7"):
        token_counts(corpus)


def test_text_is_measured_in_bytes_of_its_documents(
    spoken: TokenisedCorpus, sources: list[DomainSource], tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(spoken.folder / "tokenizer.json")
    whole = text_sizes(spoken, tokenizer)
    train = text_sizes(spoken, tokenizer, split="train")
    for domain in spoken.domains:
        summary = spoken.summary()[domain]
        assert whole[domain].tokens == spoken.validation_tokens(domain)
        assert whole[domain].bytes + train[domain].bytes == summary["bytes"]
        assert whole[domain].documents + train[domain].documents == summary["documents"]
    assert text_sizes(spoken, tokenizer, encoded_by=tokenizer) == whole


def test_a_compressed_tokenizer_makes_a_corpus_of_the_measured_size(
    spoken: TokenisedCorpus, sources: list[DomainSource], tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(spoken.folder / "tokenizer.json")
    shares = shares_at(token_counts(spoken), Mixture({"prose": 0.5, "code": 0.5}))
    smaller = compress_tokenizer(tokenizer, shares, 300)
    expected = text_sizes(spoken, tokenizer, encoded_by=smaller.tokenizer)
    smaller.tokenizer.save(str(tmp_path / "given.json"))
    made = tokenise(
        sources, tmp_path / "corpus", tokenizer_file=tmp_path / "given.json",
        validation_fraction=0.2, seed=1,
    )  # fmt: skip
    assert made.vocabulary == 300
    assert text_sizes(made, load_tokenizer(tmp_path / "corpus" / "tokenizer.json")) == expected
    before = text_sizes(spoken, tokenizer)
    for domain in spoken.domains:
        assert expected[domain].bytes == before[domain].bytes
        assert expected[domain].tokens > before[domain].tokens


def test_bits_per_byte_do_not_depend_on_how_text_is_cut() -> None:
    # A text of 1,000 bytes, each of which is one of 16 equally likely ones: 4 bits.
    single = TextSize(documents=1, bytes=1000, tokens=1000)
    pairs = TextSize(documents=1, bytes=1000, tokens=500)
    for size, choices in ((single, 16), (pairs, 256)):
        assert bits_per_byte({"a": float(np.log(choices))}, {"a": size}) == {"a": pytest.approx(4)}
    with pytest.raises(InvalidCorpus, match="'b' was not measured"):
        bits_per_byte({"b": 1.0}, {"a": single})


def test_first_documents_are_measured_where_asked(spoken: TokenisedCorpus) -> None:
    tokenizer = load_tokenizer(spoken.folder / "tokenizer.json")
    some = text_sizes(spoken, tokenizer, split="train", most_tokens=1)
    assert all(size.documents <= 256 for size in some.values())


def test_a_foreign_tokenizer_is_told(spoken: TokenisedCorpus) -> None:
    check_own(spoken, load_tokenizer(spoken.folder / "tokenizer.json"))
    backwards = {"text": [line[::-1] for line in TEXT]}
    with pytest.raises(InvalidCorpus, match="has 300 ids and ends texts with 0, but the corpus"):
        check_own(spoken, train_tokenizer(backwards, vocabulary=300))
    with pytest.raises(InvalidCorpus, match="encodes no document of 'prose' as it is"):
        check_own(spoken, train_tokenizer(backwards, vocabulary=400))


def test_text_that_is_missing_is_told(tmp_path: Path) -> None:
    tokenizer = train_tokenizer({"text": ["words " * 50]}, vocabulary=260)
    end = tokenizer.token_to_id("<|endoftext|>")
    ids = tokenizer.encode("words").ids
    documents = {"a": {"train": [ids], "validation": [[]]}}
    corpus = write_corpus(tmp_path, documents, vocabulary=260, end_of_text_id=end)
    with pytest.raises(DomainTooSmall, match="'a' has no validation text"):
        text_sizes(corpus, tokenizer)

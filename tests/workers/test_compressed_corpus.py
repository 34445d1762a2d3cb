"""Corpora in another corpus's tokens, made fewer: real text, against a real ledger."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from mixlab.compressing import compress, shares_in
from mixlab.corpora.shards import TokenisedCorpus
from mixlab.corpora.tokenizer import load_tokenizer
from mixlab.ledger import Ledger
from mixlab.ledger.records import Corpus, Job, JobKind, JobState, Queue
from mixlab.mixture import Mixture
from tests.workers.playing import work
from tests.workers.texts import write_domains
from workers.jobs.compressing import COMPRESSED
from workers.jobs.measure_corpus import MEASURED
from workers.settings import WorkerSettings

SPEC = {"vocabulary": 400, "tokenizer_file": None, "validation_fraction": 0.1, "seed": 0}
SHARES = {"code": 0.75, "documentation": 0.0, "tables": 0.25}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_domains(tmp_path_factory.mktemp("texts"))


@pytest.fixture
def settings(tmp_path: Path, texts: dict[str, Path]) -> WorkerSettings:
    return WorkerSettings(home=tmp_path / "home", data_roots=[texts["code"].parent], threads=1)


def measured(ledger: Ledger, settings: WorkerSettings, corpus: Corpus) -> Job:
    payload = {"corpus_id": corpus.id}
    return work(ledger, settings, ledger.submit(JobKind.MEASURE_CORPUS, payload, queue=Queue.CPU))


@pytest.fixture
def source(ledger: Ledger, settings: WorkerSettings, texts: dict[str, Path]) -> Corpus:
    domains = {name: {"paths": [str(path)], "text_field": "text"} for name, path in texts.items()}
    corpus = ledger.add_corpus("source", {"domains": domains, **SPEC})
    assert measured(ledger, settings, corpus).state is JobState.SUCCEEDED
    return corpus


def smaller(ledger: Ledger, source: Corpus, vocabulary: int = 320, **changes: Any) -> Corpus:
    asked = {"corpus_id": source.id, "vocabulary": vocabulary, "proportions": SHARES, **changes}
    spec = {**source.spec, "vocabulary": vocabulary, "compress": asked}
    return ledger.add_corpus("smaller", spec)


def tokenizer_of(settings: WorkerSettings, corpus: Corpus) -> Tokenizer:
    return load_tokenizer(settings.corpus_folder(corpus.id) / "tokenizer.json")


def test_a_corpus_is_tokenised_with_the_tokens_that_the_mixture_needs_most(
    ledger: Ledger, settings: WorkerSettings, source: Corpus
) -> None:
    corpus = smaller(ledger, source)
    job = measured(ledger, settings, corpus)
    assert job.state is JobState.SUCCEEDED, job.error
    opened = TokenisedCorpus.open(settings.corpus_folder(source.id))
    expected = compress(tokenizer_of(settings, source), shares_in(opened, Mixture(SHARES)), 320)
    assert tokenizer_of(settings, corpus).to_str() == expected.tokenizer.to_str()
    made = TokenisedCorpus.open(settings.corpus_folder(corpus.id))
    assert (made.vocabulary, made.domains) == (320, opened.domains)
    counted = ledger.corpus(corpus.id)
    assert counted.entropy
    tokens, before = counted.tokens or {}, ledger.corpus(source.id).tokens or {}
    # What was deleted is cut to shorter pieces, most where the mixture had no share.
    growth = {name: tokens[name]["train_tokens"] / before[name]["train_tokens"] for name in tokens}
    assert min(growth.values()) > 1
    assert max(growth, key=lambda name: growth[name]) == "documentation"
    told = [one.data["stage"] for one in ledger.events(job.id) if one.event == "stage"]
    assert told[:2] == ["compress", "tokenise"]


def test_done_again_it_is_the_same(
    ledger: Ledger, settings: WorkerSettings, source: Corpus
) -> None:
    """After a kill at any moment, and where the whole folder is gone, the source's too."""
    corpus = smaller(ledger, source)
    assert measured(ledger, settings, corpus).state is JobState.SUCCEEDED
    folder = settings.corpus_folder(corpus.id)
    before = {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.suffix in (".npy", ".json") and path.name != MEASURED  # which the ledger has
    }
    shutil.rmtree(folder)
    shutil.rmtree(settings.corpus_folder(source.id))
    folder.mkdir()
    (folder / f".99-{COMPRESSED}").write_text("half of a tok")
    job = measured(ledger, settings, corpus)
    assert job.state is JobState.SUCCEEDED, job.error
    assert {name: (folder / name).read_bytes() for name in before} == before
    (child,) = ledger.children(job.id)
    assert child.payload == {"corpus_id": source.id}


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"vocabulary": 257}, None, ""),
        ({"vocabulary": 401}, "invalid-corpus", "A vocabulary of 401 is no part"),
        ({"proportions": {"code": 0.5, "poems": 0.5}}, "invalid-corpus", "poems"),
    ],
)
def test_what_only_the_tokenizer_tells_fails_the_job_with_its_reason(
    ledger: Ledger, settings: WorkerSettings, source: Corpus,
    changes: dict[str, Any], kind: str | None, says: str,
) -> None:  # fmt: skip
    job = measured(ledger, settings, smaller(ledger, source, **changes))
    assert (job.error or {}).get("type") == kind
    assert says in (job.error or {}).get("detail", "")

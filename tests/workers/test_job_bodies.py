"""The real job bodies on real text, against a real ledger; the test plays the worker."""

import gzip
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixlab import tables
from mixlab.corpora.shards import MANIFEST, TokenisedCorpus
from mixlab.corpora.tokenizer import train_tokenizer
from mixlab.ledger import Ledger
from mixlab.ledger.records import Corpus, Job, JobKind, JobState, Queue, RunRole
from mixlab.recipes import Recipe, proxy_smoke
from tests.corpora.written import as_parquet
from tests.synthetic import mixtures, observe
from tests.workers.playing import work
from tests.workers.texts import write_domains
from workers.jobs import train_proxies
from workers.jobs.context import JobContext
from workers.jobs.waiting import measured
from workers.settings import WorkerSettings

SPEC = {"vocabulary": 400, "tokenizer_file": None, "validation_fraction": 0.1, "seed": 0}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_domains(tmp_path_factory.mktemp("texts"))


@pytest.fixture
def settings(tmp_path: Path, texts: dict[str, Path]) -> WorkerSettings:
    return WorkerSettings(
        home=tmp_path / "home", data_roots=[texts["code"].parent, tmp_path], threads=1
    )


def registered(ledger: Ledger, paths: dict[str, Path], **fields: str) -> Corpus:
    domains = {
        name: {"paths": [str(path)], "text_field": fields.get("text_field", "text")}
        for name, path in paths.items()
    }
    return ledger.add_corpus("tested", {"domains": domains, **SPEC})


def measuring(ledger: Ledger, corpus: Corpus) -> Job:
    return ledger.submit(JobKind.MEASURE_CORPUS, {"corpus_id": corpus.id}, queue=Queue.CPU)


def fitting(ledger: Ledger, **changes: Any) -> Job:
    payload = {
        "corpus_id": None,
        "observations": None,
        "recipe": "proxy_smoke",
        "law": "bimix",
        "budget_tokens": 60_000,
        "objective": {"weights": None},
        "constraints": {"lower": {}, "upper": {}, "max_epochs": 4.0},
        "design": {"count": 5, "floor": 0.1, "seed": 0, "repeated_seeds": 1},
        "tokens_available": None,
        "tokens_per_step": proxy_smoke().tokens_per_step,
    }
    return ledger.submit(JobKind.FIT_MIXTURE, {**payload, **changes}, queue=Queue.CPU)


def test_a_corpus_is_measured_once_and_stays_a_snapshot(
    ledger: Ledger, settings: WorkerSettings, tmp_path: Path, texts: dict[str, Path]
) -> None:
    mine = tmp_path / "tables.jsonl"
    mine.write_bytes(texts["tables"].read_bytes())
    corpus = registered(ledger, {"code": texts["code"], "tables": mine})
    assert work(ledger, settings, measuring(ledger, corpus)).state is JobState.SUCCEEDED
    first = ledger.corpus(corpus.id)
    assert first.tokens
    assert first.entropy
    assert first.tokens["code"]["train_tokens"] > 10 * first.tokens["code"]["validation_tokens"] / 3
    # Tables of characters repeat themselves: the next token is easier to know.
    assert first.entropy["tables"]["conditional"] < first.entropy["code"]["conditional"]
    assert first.entropy["code"]["standard_error"]["conditional"] > 0
    mine.write_text('{"text": "changed"}\n')
    assert work(ledger, settings, measuring(ledger, corpus)).state is JobState.SUCCEEDED
    assert ledger.corpus(corpus.id) == first


def test_shards_that_are_gone_are_made_again_of_the_same_text_alone(
    ledger: Ledger, settings: WorkerSettings, tmp_path: Path
) -> None:
    """As where a full disk was cleared, or a ledger restored without its home folder."""
    paths = write_domains(tmp_path / "own")
    corpus = registered(ledger, paths)
    work(ledger, settings, measuring(ledger, corpus))
    before, folder = ledger.corpus(corpus.id), settings.corpus_folder(corpus.id)
    shards = {path.name: path.read_bytes() for path in folder.rglob("*.npy")}
    shutil.rmtree(folder)
    job = ledger.submit(JobKind.TRAIN, {"corpus_id": corpus.id}, queue=Queue.GPU)
    claimed = ledger.claim(job.id, "w", 60)
    assert claimed is not None
    assert not measured(JobContext(claimed, ledger, settings), corpus.id)
    (child,) = ledger.children(job.id)
    assert work(ledger, settings, child).state is JobState.SUCCEEDED
    assert {path.name: path.read_bytes() for path in folder.rglob("*.npy")} == shards
    assert ledger.corpus(corpus.id) == before
    again = ledger.claim(job.id, "w", 60)
    assert again is not None
    assert measured(JobContext(again, ledger, settings), corpus.id)

    shutil.rmtree(folder)
    assert measured(JobContext(again, ledger, settings), corpus.id)  # never waits for ever
    paths["code"].write_text(paths["code"].read_text() + '{"text": "changed"}\n')
    ended = work(ledger, settings, measuring(ledger, corpus))
    assert ended.error is not None
    assert ended.error["type"] == "invalid-corpus"
    assert not (folder / MANIFEST).exists()
    assert ledger.corpus(corpus.id) == before


@pytest.mark.parametrize(
    ("content", "slug"),
    [
        ("", "empty-domain"),
        ('{"body": "no text here"}\n', "missing-text-field"),
        ('{"text": "one short document"}\n', "domain-too-small"),
        ('{"text": "a"}\n{"text": "b"}\n{"text": "c"}\n', "domain-too-small"),
        ('{"text": "broken', "truncated-file"),
    ],
)
def test_text_that_cannot_be_used_fails_the_job_with_its_reason(
    ledger: Ledger,
    settings: WorkerSettings,
    tmp_path: Path,
    texts: dict[str, Path],
    content: str,
    slug: str,
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text(content)
    corpus = registered(ledger, {"code": texts["tables"], "bad": bad})
    job = work(ledger, settings, fitting(ledger, corpus_id=corpus.id))
    assert job.state is JobState.FAILED
    assert job.error
    assert job.error["type"] == slug, job.error
    assert "bad" in job.error["detail"]


def test_a_path_that_left_the_roots_since_it_was_registered_is_refused(
    ledger: Ledger, settings: WorkerSettings, tmp_path: Path, texts: dict[str, Path]
) -> None:
    link = tmp_path / "link.jsonl"
    link.symlink_to("/etc/passwd")
    corpus = registered(ledger, {"code": texts["tables"], "link": link})
    job = work(ledger, settings, measuring(ledger, corpus))
    assert job.error
    assert job.error["type"] == "path-not-allowed"


@pytest.mark.parametrize(
    ("name", "raw", "slug"),
    [
        ("bad.jsonl.gz", gzip.compress(b'{"text": "cut"}\n' * 900, mtime=0)[:-9], "truncated-file"),
        ("bad.parquet", as_parquet(["cut"] * 900)[:-9], "truncated-file"),
        ("bad.jsonl.gz", gzip.compress(bytes(40 << 20), mtime=0), "limit-exceeded"),
    ],
)
def test_a_damaged_file_and_a_bomb_fail_the_job_by_name(
    ledger: Ledger, settings: WorkerSettings, tmp_path: Path, texts: dict[str, Path],
    name: str, raw: bytes, slug: str,
) -> None:  # fmt: skip
    (tmp_path / name).write_bytes(raw)
    corpus = registered(ledger, {"code": texts["tables"], "bad": tmp_path / name})
    job = work(ledger, settings, measuring(ledger, corpus))
    assert job.error
    assert job.error["type"] == slug, job.error
    assert name in job.error["detail"]


def test_the_limits_are_the_settings(
    ledger: Ledger, settings: WorkerSettings, texts: dict[str, Path]
) -> None:
    corpus = registered(ledger, {name: texts[name] for name in ("code", "tables")})
    for name, value in (("max_file_bytes", 5000), ("max_document_bytes", 100)):
        changed = settings.model_copy(update={name: value})
        job = work(ledger, changed, measuring(ledger, corpus))
        assert job.error
        assert job.error["type"] == "limit-exceeded"
        assert f"MIXLAB_{name.upper()}" in job.error["detail"]
    settings = settings.model_copy(update={"max_file_bytes": 10**9})
    assert work(ledger, settings, measuring(ledger, corpus)).state is JobState.SUCCEEDED


def test_invalid_utf8_is_counted_where_the_user_looks(
    ledger: Ledger, settings: WorkerSettings, tmp_path: Path, texts: dict[str, Path]
) -> None:
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(texts["tables"].read_bytes() + b'{"text": "caf\xe9, caf\xe9"}\n')
    corpus = registered(ledger, {"latin": latin, "documentation": texts["documentation"]})
    assert work(ledger, settings, measuring(ledger, corpus)).state is JobState.SUCCEEDED
    assert (ledger.corpus(corpus.id).tokens or {})["latin"]["replaced_characters"] == 2


def test_names_in_a_folder_may_hold_what_a_registered_path_may_not(
    ledger: Ledger, settings: WorkerSettings, tmp_path: Path, texts: dict[str, Path]
) -> None:
    folder = tmp_path / "my pages"
    folder.mkdir()
    for number, line in enumerate(texts["tables"].read_text().splitlines()):
        (folder / f"a%20page::{number}\\.txt").write_text(json.loads(line)["text"])
    corpus = registered(ledger, {"pages [/b]": folder, "documentation": texts["documentation"]})
    job = work(ledger, settings, measuring(ledger, corpus))
    assert job.state is JobState.SUCCEEDED, job.error


def test_a_tokenizer_swapped_for_a_link_since_it_was_registered_is_refused(
    ledger: Ledger, settings: WorkerSettings, tmp_path: Path, texts: dict[str, Path]
) -> None:
    link = tmp_path / "tokenizer.json"
    link.symlink_to("/etc/passwd")
    domains = {name: {"paths": [str(texts[name])]} for name in ("code", "tables")}
    spec = {"domains": domains, **SPEC, "tokenizer_file": str(link)}
    job = work(ledger, settings, measuring(ledger, ledger.add_corpus("linked", spec)))
    assert job.error
    assert job.error["type"] == "path-not-allowed"
    assert "symbolic link" in job.error["detail"]


def test_a_given_tokenizer_is_used_and_a_broken_one_is_named(
    ledger: Ledger, settings: WorkerSettings, tmp_path: Path, texts: dict[str, Path]
) -> None:
    domains = {name: {"paths": [str(texts[name])]} for name in ("code", "tables")}
    given = tmp_path / "given.json"
    spec = {"domains": domains, **SPEC, "tokenizer_file": str(given)}
    train_tokenizer({"tables": [texts["tables"].read_text()]}, vocabulary=300).save(str(given))
    corpus = ledger.add_corpus("given", spec)
    job = work(ledger, settings, measuring(ledger, corpus))
    assert job.state is JobState.SUCCEEDED, job.error
    assert TokenisedCorpus.open(settings.corpus_folder(corpus.id)).vocabulary == 300
    given.write_text('{"model": ')
    job = work(ledger, settings, measuring(ledger, ledger.add_corpus("broken", spec)))
    assert job.error
    assert job.error["type"] == "truncated-file"
    assert str(given) in job.error["detail"]


@pytest.mark.parametrize(
    ("changes", "slug", "told"),
    [
        ({"budget_tokens": 10**12}, "infeasible-constraints", "epochs of"),
        ({"recipe": "tinyllama_1b"}, "domain-too-small", "one sequence of 2048"),
    ],
)
def test_a_fit_that_the_token_counts_forbid_fails_before_it_trains(
    ledger: Ledger, settings: WorkerSettings, tmp_path: Path, texts: dict[str, Path],
    changes: dict[str, Any], slug: str, told: str,
) -> None:  # fmt: skip
    small = tmp_path / "small.txt"
    small.write_text("".join(f"line {number} of a small text\n" for number in range(300)))
    corpus = registered(ledger, {"code": texts["tables"], "small": small})
    job = work(ledger, settings, fitting(ledger, corpus_id=corpus.id, **changes))
    assert job.error
    assert job.error["type"] == slug, job.error
    assert told in job.error["detail"]
    assert "small" in job.error["detail"]
    assert [child.kind for child in ledger.children(job.id)] == [JobKind.MEASURE_CORPUS]


def test_a_recipe_that_memory_cannot_hold_is_refused_before_anything_is_allocated(
    ledger: Ledger, settings: WorkerSettings, texts: dict[str, Path]
) -> None:
    corpus = registered(ledger, {name: texts[name] for name in ("code", "tables")})
    shape = replace(proxy_smoke().architecture, layers=1000, width=65_536, ffn_width=262_144)
    payload = _training(
        corpus, replace(proxy_smoke(), architecture=shape), {"code": 0.5, "tables": 0.5}
    )
    job = work(ledger, settings, ledger.submit(JobKind.TRAIN, payload, queue=Queue.GPU))
    assert job.error
    assert job.error["type"] == "not-enough-memory"
    assert "GB are free" in job.error["detail"]
    assert job.failures == 0


@pytest.mark.slow
def test_a_fit_leaves_out_the_run_that_diverged_and_says_so(
    ledger: Ledger, settings: WorkerSettings, texts: dict[str, Path]
) -> None:
    corpus = registered(ledger, texts)
    job = fitting(ledger, corpus_id=corpus.id)
    # The fit finds this child under the key of one of its designed runs.
    exploding = replace(proxy_smoke(), learning_rate=1e4, warmup_steps=1)
    ledger.submit(
        JobKind.TRAIN,
        _training(corpus, exploding, {"code": 0.4, "documentation": 0.3, "tables": 0.3}),
        queue=Queue.GPU,
        parent_id=job.id,
        key="design-01/seed-0",
    )
    ended = work(ledger, settings, job)
    assert ended.state is JobState.SUCCEEDED, ended.error
    report = ledger.mixture(str((ended.result or {})["mixture_id"])).report
    states = {run["label"]: run for run in report["proxy_runs"]}
    assert states["design-01"]["state"] == "failed"
    assert states["design-01"]["error"]["type"] == "diverged"
    kept = tables.read_table(report["observations_file"])
    assert len(set(kept.runs)) == len(report["proxy_runs"]) - 1
    assert np.isfinite(kept.losses_nats).all()
    _check_trained_as_designed(ledger, corpus)
    # A second fit on this corpus trains nothing but the run that failed.
    again = work(ledger, settings, fitting(ledger, corpus_id=corpus.id))
    assert again.state is JobState.SUCCEEDED
    assert [child.key for child in ledger.children(again.id)] == ["design-01/seed-0"]


@pytest.mark.slow
def test_with_gpus_children_count_and_train_in_groups_to_the_same_entropies(
    ledger: Ledger, settings: WorkerSettings, texts: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """On the CPU, which is what torch has here; how many to stack is not measured."""
    quickly = partial(train_proxies.choose, stack=3, seconds=0.1)
    monkeypatch.setattr(train_proxies, "choose", quickly)
    one_gpu = settings.model_copy(update={"gpus": 1})
    corpus, plain = registered(ledger, texts), registered(ledger, texts)
    ended = work(ledger, one_gpu, fitting(ledger, corpus_id=corpus.id))
    assert ended.state is JobState.SUCCEEDED, ended.error
    measured, trained = ledger.children(ended.id)
    assert (measured.kind, trained.kind) == (JobKind.MEASURE_CORPUS, JobKind.TRAIN_PROXIES)
    (counted,) = ledger.children(measured.id)
    assert (counted.kind, counted.queue) == (JobKind.MEASURE_ENTROPY, Queue.GPU)
    assert work(ledger, settings, measuring(ledger, plain)).state is JobState.SUCCEEDED
    assert ledger.corpus(corpus.id).entropy == ledger.corpus(plain.id).entropy
    report = ledger.mixture(str((ended.result or {})["mixture_id"])).report
    assert {run["state"] for run in report["proxy_runs"]} == {"used"}
    assert {run["job_id"] for run in report["proxy_runs"]} == {trained.id}
    _check_trained_as_designed(ledger, corpus)


def test_a_corpus_whose_counting_failed_on_the_gpu_says_why(
    ledger: Ledger, settings: WorkerSettings, tmp_path: Path, texts: dict[str, Path]
) -> None:
    short = tmp_path / "short.jsonl"
    short.write_text("".join(json.dumps({"text": word}) + "\n" for word in "abcdefgh"))
    corpus = registered(ledger, {"tables": texts["tables"], "short": short})
    on_cpu = work(ledger, settings, measuring(ledger, corpus))
    one_gpu = settings.model_copy(update={"gpus": 1})
    job = work(ledger, one_gpu, measuring(ledger, corpus))
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error == on_cpu.error
    assert "short" in job.error["detail"]


def _training(corpus: Corpus, recipe: Recipe, mixture: dict[str, float]) -> dict[str, Any]:
    return {
        "corpus_id": corpus.id,
        "mixture": mixture,
        "mixture_id": None,
        "recipe": recipe.to_dict(),
        "seed": 0,
        "role": "proxy",
        "label": "design-01",
    }


def _check_trained_as_designed(ledger: Ledger, corpus: Corpus) -> None:
    """What each run consumed is its mixture, to within one batch."""
    made = [run for run in ledger.runs(corpus_id=corpus.id, role=RunRole.PROXY) if not run.error]
    assert made
    for run in made:
        recipe = Recipe.from_dict(dict(run.recipe))
        consumed = dict.fromkeys(run.mixture, 0)
        for part in run.consumed:
            for domain, tokens in part["tokens"].items():
                consumed[domain] += tokens
        assert sum(consumed.values()) == recipe.tokens
        for domain, share in run.mixture.items():
            assert abs(consumed[domain] - share * recipe.tokens) <= recipe.tokens_per_step


def test_a_table_of_observations_needs_no_corpus_and_no_training(
    ledger: Ledger, settings: WorkerSettings
) -> None:
    rows = tables.to_rows(observe(mixtures(4, 10)))
    job = work(ledger, settings, fitting(ledger, observations=rows, tokens_per_step=1))
    assert job.state is JobState.SUCCEEDED, job.error
    assert not ledger.children(job.id)
    record = ledger.mixture(str((job.result or {})["mixture_id"]))
    assert sum(record.proportions.values()) == pytest.approx(1, abs=1e-12)
    assert record.fit
    assert {found["status"] for found in record.fit["targets"].values()} == {"converged"}


def test_too_few_mixtures_say_how_many_are_needed(ledger: Ledger, settings: WorkerSettings) -> None:
    rows = tables.to_rows(observe(mixtures(3, 3)[:2]))
    job = work(ledger, settings, fitting(ledger, observations=rows))
    assert job.error
    assert job.error["type"] == "too-few-mixtures"
    assert "at least" in job.error["detail"]

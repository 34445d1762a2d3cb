import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from mixlab.corpora.shards import SPLITS, TokenisedCorpus
from mixlab.corpora.tokenising import DomainSource, tokenise
from mixlab.corpora.tokenizer import load_tokenizer
from mixlab.errors import DomainTooSmall, EmptyDomain, InvalidCorpus, MissingFile

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota"]


def make_texts(count: int, seed: int, words: int = 60) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=words)) + f" {seed}-{n}.\n" for n in range(count)]


def write_jsonl(path: Path, texts: list[str]) -> DomainSource:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return DomainSource(path.stem, (str(path),))


@pytest.fixture
def domains(tmp_path: Path) -> list[DomainSource]:
    return [
        write_jsonl(tmp_path / "in" / "a.jsonl", make_texts(200, 1)),
        write_jsonl(tmp_path / "in" / "b.jsonl", make_texts(100, 2)),
    ]


def run(domains: list[DomainSource], folder: Path, **options: object) -> TokenisedCorpus:
    defaults = {"vocabulary": 300, "shard_tokens": 3000, "sample_bytes": 20_000}
    return tokenise(domains, folder, **(defaults | options))


def decoded(corpus: TokenisedCorpus, domain: str, split: str) -> list[str]:
    tokenizer = load_tokenizer(corpus.folder / "tokenizer.json")
    texts = []
    for shard in corpus.shards(domain, split):
        for document in np.split(shard.tokens(), shard.starts()[1:]):
            assert document[-1] == corpus.end_of_text_id
            assert (document[:-1] != corpus.end_of_text_id).all()
            texts.append(tokenizer.decode(document[:-1].tolist(), skip_special_tokens=False))
    return texts


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """What would change if a file were written anew."""
    return {
        str(p.relative_to(folder)): (p.stat().st_ino, p.stat().st_mtime_ns)
        for p in folder.rglob("*.npy")
    }


def content(corpus: TokenisedCorpus) -> object:
    return json.loads((corpus.folder / "manifest.json").read_text())["domains"]


def test_every_document_comes_back_in_exactly_one_split(
    domains: list[DomainSource], tmp_path: Path
) -> None:
    corpus = run(domains, tmp_path / "out")
    assert corpus.domains == ("a", "b")
    assert corpus.vocabulary == 300
    for name, texts in (("a", make_texts(200, 1)), ("b", make_texts(100, 2))):
        train, validation = (decoded(corpus, name, split) for split in SPLITS)
        assert sorted(train + validation) == sorted(texts)
        assert set(train).isdisjoint(validation)
        summary = corpus.summary()[name]
        assert summary["documents"] == len(texts)
        assert summary["train_tokens"] == len(corpus.stream(name, "train"))
        share = summary["validation_tokens"] / len(corpus.stream(name, "train"))
        assert 0.02 < share < 0.12
    assert len(corpus.shards("a", "train")) > 2
    assert json.dumps(corpus.summary())


def test_no_validation_document_stands_in_any_domains_training(tmp_path: Path) -> None:
    shared = make_texts(100, 3)
    one = write_jsonl(tmp_path / "one.jsonl", make_texts(100, 1) + shared + shared[:30])
    two = write_jsonl(tmp_path / "two.jsonl", shared + make_texts(100, 2))
    corpus = run([one, two], tmp_path / "out")
    texts = {(d, s): decoded(corpus, d, s) for d in corpus.domains for s in SPLITS}
    together = [text for group in texts.values() for text in group]
    assert len(together) == len(set(together)) == 300
    assert corpus.summary()["one"]["duplicates"] == 30
    assert corpus.summary()["two"]["duplicates"] == 100


def test_a_second_run_writes_nothing(domains: list[DomainSource], tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run(domains, out)
    before, heard = state(out), []
    second = run(domains, out, progress=heard.append)
    assert state(out) == before
    assert second.fingerprint == first.fingerprint
    assert heard == [1.0]


def test_the_same_input_gives_the_same_shards(domains: list[DomainSource], tmp_path: Path) -> None:
    assert content(run(domains, tmp_path / "x")) == content(run(domains, tmp_path / "y"))
    assert content(run(domains, tmp_path / "z", seed=1)) != content(run(domains, tmp_path / "x"))


@pytest.mark.parametrize("change", ["text", "touch", "fraction", "vocabulary", "shard", "field"])
def test_a_change_is_seen_and_made_anew(
    domains: list[DomainSource], tmp_path: Path, change: str
) -> None:
    out, options = tmp_path / "out", {}
    before = run(domains, out).fingerprint
    path = Path(domains[1].locations[0])
    if change == "text":
        write_jsonl(path, make_texts(210, 4))
    elif change == "touch":
        os.utime(path, ns=(1, 1))
    elif change == "field":
        path.write_text(path.read_text().replace('"text"', '"body"'))
        domains = [domains[0], DomainSource("b", domains[1].locations, "body")]
    else:
        options = {
            "fraction": {"validation_fraction": 0.2},
            "vocabulary": {"vocabulary": 280},
            "shard": {"shard_tokens": 5000},
        }[change]
    after = run(domains, out, **options)
    assert after.fingerprint != before
    assert content(after) == content(run(domains, tmp_path / "fresh", **options))


def test_a_damaged_shard_is_made_again_and_the_others_stay(
    domains: list[DomainSource], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    corpus = run(domains, out)
    expected, before = content(corpus), state(out)
    damaged = corpus.entry("b").train[1].file
    (out / damaged).write_bytes(b"junk")
    mended = run(domains, out)
    assert content(mended) == expected
    assert mended.intact()
    kept = {name for name, value in state(out).items() if before.get(name) == value}
    assert kept >= {name for name in before if name.startswith("d000/") or "00000" in name} - {
        "d001/digests.npy"
    }
    assert damaged not in kept


def test_a_domain_added_at_the_end_leaves_the_others(
    domains: list[DomainSource], tmp_path: Path
) -> None:
    """With a given tokenizer; a trained one depends on every domain."""
    run(domains, tmp_path / "first")
    given = {"tokenizer_file": tmp_path / "first" / "tokenizer.json"}
    out = tmp_path / "out"
    run(domains, out, **given)
    before = state(out)
    more = [*domains, write_jsonl(tmp_path / "in" / "c.jsonl", make_texts(100, 5))]
    assert run(more, out, **given).domains == ("a", "b", "c")
    assert before.items() <= state(out).items()
    assert run(domains, out, **given).domains == ("a", "b")
    assert state(out) == before


KILLED = """
import sys
from pathlib import Path
from mixlab.corpora.tokenising import DomainSource, tokenise
sources = [DomainSource(Path(p).stem, (p,)) for p in sys.argv[2:]]
tokenise(sources, Path(sys.argv[1]), vocabulary=300, shard_tokens=3000, sample_bytes=20_000)
"""


@pytest.mark.service
def test_a_killed_run_goes_on_behind_the_last_whole_part(tmp_path: Path) -> None:
    domains = [
        write_jsonl(tmp_path / "in" / f"{name}.jsonl", make_texts(800, seed))
        for seed, name in enumerate("ab")
    ]
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(out), *(d.locations[0] for d in domains)]
    for awaited in ("d000/part-00003.json", "d001/part-00005.json"):
        process = subprocess.Popen(command)
        while not (out / awaited).exists() and process.poll() is None:
            time.sleep(0.0005)
        process.kill()
        assert process.wait() == -9
        assert not (out / "manifest.json").exists()
        before = {name: s for name, s in state(out).items() if "/." not in name}
        whole = len(list((out / awaited).parent.glob("part-*.json")))
    corpus = run(domains, out)
    after = state(out)
    for number in range(whole):
        name = f"d001/train-{number:05d}.npy"
        assert after[name] == before[name]
    assert all(after[name] == value for name, value in before.items() if name.startswith("d000"))
    assert content(corpus) == content(run(domains, tmp_path / "unkilled"))
    assert not list(out.rglob(".*.npy"))


def test_domains_that_cannot_be_are_refused(domains: list[DomainSource], tmp_path: Path) -> None:
    out = tmp_path / "out"
    twice = [domains[0], DomainSource("a", domains[1].locations)]
    for wrong, message in (
        ([], "at least one domain"),
        (twice, "given twice: a"),
        ([DomainSource("x", ())], "no file or folder"),
        ([DomainSource(" ", ("x",))], "empty"),
    ):
        with pytest.raises(InvalidCorpus, match=message):
            run(wrong, out)
    for options in ({"validation_fraction": 0.0}, {"validation_fraction": 0.6}):
        with pytest.raises(InvalidCorpus, match="fraction"):
            run(domains, out, **options)
    with pytest.raises(InvalidCorpus, match="shard_tokens"):
        run(domains, out, shard_tokens=0)
    with pytest.raises(MissingFile):
        run([DomainSource("x", (str(tmp_path / "nothing"),))], out)
    assert not (out / "manifest.json").exists()


def test_an_empty_domain_is_named(domains: list[DomainSource], tmp_path: Path) -> None:
    empty = write_jsonl(tmp_path / "in" / "empty.jsonl", ["", "  \n"])
    with pytest.raises(EmptyDomain, match="'empty' has no document"):
        run([*domains, empty], tmp_path / "out")
    copy = write_jsonl(tmp_path / "in" / "copy.jsonl", make_texts(50, 1))
    with pytest.raises(EmptyDomain, match="all 50 in"):
        run([*domains, copy], tmp_path / "out")


def test_one_text_file_is_a_domain_and_one_sentence_is_none(
    domains: list[DomainSource], tmp_path: Path
) -> None:
    book = tmp_path / "book.txt"
    book.write_text("".join(make_texts(200, 6)))
    corpus = run([*domains, DomainSource("book", (str(book),))], tmp_path / "out")
    assert corpus.validation_tokens("book") > 100
    pieces = decoded(corpus, "book", "train") + decoded(corpus, "book", "validation")
    assert sorted("".join(pieces)) == sorted(book.read_text())
    book.write_text("One sentence.")
    with pytest.raises(DomainTooSmall, match="'book' has a single document of 13 bytes"):
        run([*domains, DomainSource("book", (str(book),))], tmp_path / "out")


def test_a_document_longer_than_an_encoding_piece_stays_one_document(tmp_path: Path) -> None:
    long = "".join(f"row {n} of many\n" for n in range(20_000))
    source = write_jsonl(tmp_path / "a.jsonl", [*make_texts(100, 1), long])
    corpus = run([source], tmp_path / "out")
    assert long in decoded(corpus, "a", "train") + decoded(corpus, "a", "validation")


def test_a_given_tokenizer_decides_ids_and_width(
    domains: list[DomainSource], tmp_path: Path
) -> None:
    words = {word: number + 70_000 for number, word in enumerate([*WORDS, "[UNK]"])}
    given = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    given.add_special_tokens(["</s>"])
    given.save(str(tmp_path / "given.json"))
    corpus = run(domains, tmp_path / "out", tokenizer_file=tmp_path / "given.json")
    assert corpus.end_of_text_id == given.token_to_id("</s>")
    assert corpus.vocabulary > 70_000
    assert corpus.stream("a", "train").window(0, 3).dtype == np.uint32


def test_invalid_utf8_is_replaced_and_counted(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", make_texts(100, 1))
    with Path(source.locations[0]).open("ab") as handle:
        handle.write(b'{"text": "caf\xe9 \xff here"}\n')
    corpus = run([source], tmp_path / "out")
    assert corpus.summary()["a"]["replaced_characters"] == 2
    texts = decoded(corpus, "a", "train") + decoded(corpus, "a", "validation")
    assert "caf\ufffd \ufffd here" in texts


def test_progress_rises_to_one(domains: list[DomainSource], tmp_path: Path) -> None:
    heard: list[float] = []
    run(domains, tmp_path / "out", progress=heard.append)
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
    assert len(heard) > 10

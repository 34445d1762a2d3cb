import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlab.corpora.files import write_atomically, write_json
from mixlab.corpora.shards import TokenisedCorpus, TokenStream, token_dtype, write_corpus
from mixlab.errors import InvalidCorpus, MissingFile, TruncatedFile

END = 9


def corpus_of(folder: Path, documents: list[list[int]], *, shard_documents: int) -> TokenisedCorpus:
    return write_corpus(
        folder,
        {"a": {"train": documents, "validation": documents[:1]}},
        vocabulary=10,
        end_of_text_id=END,
        shard_documents=shard_documents,
    )


@settings(deadline=None, max_examples=25)
@given(
    documents=st.lists(st.lists(st.integers(0, 8), max_size=6), min_size=1, max_size=12),
    shard_documents=st.integers(1, 5),
    data=st.data(),
)
def test_a_window_is_a_slice_of_all_tokens_whatever_the_shards(
    tmp_path_factory: pytest.TempPathFactory,
    documents: list[list[int]],
    shard_documents: int,
    data: st.DataObject,
) -> None:
    corpus = corpus_of(tmp_path_factory.mktemp("c"), documents, shard_documents=shard_documents)
    flat = np.concatenate([[*document, END] for document in documents])
    stream = corpus.stream("a", "train")
    start = data.draw(st.integers(0, len(flat)))
    length = data.draw(st.integers(0, len(flat) - start))
    np.testing.assert_array_equal(stream.window(start, length), flat[start : start + length])
    np.testing.assert_array_equal(
        stream.windows([start, start], length), [flat[start : start + length]] * 2
    )
    assert len(stream) == len(flat) == corpus.train_tokens("a")


def test_a_window_outside_the_stream_is_refused(tmp_path: Path) -> None:
    stream = corpus_of(tmp_path, [[1, 2], [3]], shard_documents=1).stream("a", "train")
    for start, length in ((-1, 2), (0, 6), (5, 1)):
        with pytest.raises(IndexError):
            stream.window(start, length)
    assert len(TokenStream([])) == 0


def test_document_starts_point_behind_end_of_text(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, [[1, 2], [3], [4, 5, 6]], shard_documents=2)
    for shard in corpus.shards("a", "train"):
        starts, tokens = shard.starts(), shard.tokens()
        assert starts[0] == 0
        assert (tokens[starts[1:] - 1] == END).all()
        assert tokens[-1] == END
    assert corpus.summary()["a"] == {"train_tokens": 9, "validation_tokens": 3, "documents": 4}


def test_ids_take_two_bytes_up_to_a_vocabulary_of_65536() -> None:
    assert token_dtype(65_536) is np.uint16
    assert token_dtype(65_537) is np.uint32
    assert token_dtype(65_536)(65_535) == 65_535


def test_damage_is_seen(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, [[1, 2], [3]], shard_documents=5)
    assert corpus.intact()
    path = tmp_path / corpus.entry("a").train[0].file
    content = path.read_bytes()
    path.write_bytes(content[:-2] + b"\x05\x00")
    assert not corpus.intact()
    path.write_bytes(content[:-3])
    with pytest.raises(TruncatedFile, match="tokenise again"):
        corpus.stream("a", "train")
    np.save(path, np.zeros(3, dtype=np.uint16))
    with pytest.raises(TruncatedFile, match="manifest says 5"):
        corpus.stream("a", "train")


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="tokenise"):
        TokenisedCorpus.open(tmp_path / "none")
    corpus = corpus_of(tmp_path, [[1]], shard_documents=1)
    with pytest.raises(InvalidCorpus, match="it has a"):
        corpus.train_tokens("b")
    with pytest.raises(InvalidCorpus, match="splits are"):
        corpus.stream("a", "test")


@pytest.mark.parametrize("text", ["", "{}", '{"domains": [1]}', "[]"])
def test_a_damaged_manifest_is_an_error_of_ours(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(TruncatedFile, match="manifest"):
        TokenisedCorpus.open(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(1))

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
    assert path.read_text() == "1"


def test_a_file_outlives_a_power_cut_once_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes are on the disk before it has its name, and its name before anybody is told."""
    path, synced = tmp_path / "shard.json", list[tuple[bool, bool]]()

    def watched(descriptor: int) -> None:
        is_folder = os.fstat(descriptor).st_ino == tmp_path.stat().st_ino
        synced.append((is_folder, path.exists()))

    monkeypatch.setattr("os.fsync", watched)
    write_json(path, {})
    assert synced == [(False, False), (True, True)]

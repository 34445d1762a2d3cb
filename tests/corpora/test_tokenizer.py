import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from mixlab.corpora.tokenizer import (
    END_OF_TEXT,
    end_of_text_id,
    load_tokenizer,
    train_tokenizer,
    vocabulary_of,
)
from mixlab.errors import InvalidCorpus, MissingFile, TruncatedFile

SAMPLES = {
    "code": ["def f(x):\n    return x + 1\n" * 20, "import os, sys\n" * 30],
    "prose": ["The quick brown fox jumps over the lazy dog. " * 40],
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(SAMPLES, vocabulary=300)


def test_vocabulary_has_the_size_asked_for_and_an_end_of_text(tokenizer: Tokenizer) -> None:
    assert vocabulary_of(tokenizer) == 300
    assert end_of_text_id(tokenizer) == tokenizer.token_to_id(END_OF_TEXT) == 0


def test_training_is_deterministic(tokenizer: Tokenizer) -> None:
    assert train_tokenizer(SAMPLES, vocabulary=300).to_str() == tokenizer.to_str()


@settings(deadline=None, max_examples=200)
@given(text=st.text(st.characters(exclude_categories=("Cs",))))
def test_every_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    encoded = tokenizer.encode_batch_fast([text], add_special_tokens=False)[0]
    assert tokenizer.decode(encoded.ids, skip_special_tokens=False) == text


def test_text_cannot_forge_the_end_of_text(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for each in (tokenizer, load_tokenizer(tmp_path / "tokenizer.json")):
        encoded = each.encode_batch_fast([f"a{END_OF_TEXT}b"], add_special_tokens=False)[0]
        assert end_of_text_id(each) not in encoded.ids


def test_the_vocabulary_must_hold_all_bytes() -> None:
    with pytest.raises(InvalidCorpus, match="at least 257"):
        train_tokenizer(SAMPLES, vocabulary=256)


@pytest.mark.parametrize("name", ["</s>", "<|end_of_text|>", "<eos>"])
def test_other_end_of_text_tokens_are_found(name: str, tmp_path: Path) -> None:
    given_ = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    given_.add_special_tokens([name])
    given_.enable_truncation(2)
    given_.enable_padding(length=7)
    given_.save(str(tmp_path / "t.json"))
    loaded = load_tokenizer(tmp_path / "t.json")
    assert end_of_text_id(loaded) == 2
    assert vocabulary_of(loaded) == 3
    assert loaded.truncation is None
    assert loaded.padding is None


def test_a_tokenizer_that_is_of_no_use_says_why(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="give a tokenizer"):
        load_tokenizer(tmp_path / "none.json")
    (tmp_path / "half.json").write_text(json.dumps({"model": {}}))
    with pytest.raises(TruncatedFile, match="not a tokenizer"):
        load_tokenizer(tmp_path / "half.json")
    lost = {"</s>": 0, "words": 1}
    Tokenizer(models.WordLevel(lost, unk_token="[UNK]")).save(str(tmp_path / "lost.json"))
    with pytest.raises(InvalidCorpus, match=r"lost.json can't encode every text.*unknown token"):
        load_tokenizer(tmp_path / "lost.json")
    Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "bare.json"))
    with pytest.raises(InvalidCorpus, match="no end-of-text token"):
        load_tokenizer(tmp_path / "bare.json")

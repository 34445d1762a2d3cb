"""The note in a file of weights: whatever it holds is told, or refused in words."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixlab.errors import TruncatedFile
from mixlab.recipes.noted import NOTE, noted_architecture, noted_corpus, noted_run

FILE = Path("weights.safetensors")
NAMES = st.sampled_from(["identity", "recipe", "architecture", "corpus", "layers"])
JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
)


def test_a_run_tells_its_shape_and_corpus() -> None:
    run = {"identity": {"recipe": {"architecture": {"layers": 2}}, "corpus": "abc"}}
    assert noted_run({NOTE: json.dumps(run)}, FILE) == run
    assert noted_architecture(run, FILE) == {"layers": 2}
    assert noted_corpus(run) == "abc"
    grown = run | {"architecture": {"layers": 4}}
    assert noted_architecture(grown, FILE) == {"layers": 4}


def test_without_a_note_nothing_is_told() -> None:
    assert noted_run(None, FILE) is None
    assert noted_run({}, FILE) is None
    assert noted_corpus(None) is None


@given(JSON)
def test_any_note_is_told_or_refused(note: object) -> None:
    try:
        run = noted_run({NOTE: json.dumps(note)}, FILE)
    except TruncatedFile:
        assert not isinstance(note, dict)
        return
    assert run == note
    assert isinstance(noted_corpus(run), str | None)
    try:
        shape = noted_architecture(run or {}, FILE)
    except TruncatedFile:
        return
    known = note if "architecture" in note else note["identity"]["recipe"]
    assert shape == dict(known["architecture"])


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "NaN", '"run"'])
def test_damaged_notes_are_refused(text: str) -> None:
    with pytest.raises(TruncatedFile, match=r"weights\.safetensors has a damaged note of its run"):
        noted_run({NOTE: text}, FILE)

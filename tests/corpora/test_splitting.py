import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixlab.corpora import splitting
from mixlab.corpora.splitting import (
    Document,
    SeenDigests,
    Tally,
    cut_text,
    digest_of,
    split_documents,
    split_threshold,
    split_value,
)
from mixlab.errors import DomainTooSmall


def split(
    texts: list[str], *, seen: SeenDigests | None = None, fraction: float = 0.05, seed: int = 0
) -> tuple[list[Document], Tally]:
    tally = Tally()
    documents = split_documents(
        iter(texts),
        domain="d",
        seen=seen or SeenDigests(),
        tally=tally,
        validation_fraction=fraction,
        seed=seed,
    )
    return list(documents), tally


@given(text=st.text(), limit=st.integers(1, 20))
def test_pieces_join_to_the_text(text: str, limit: int) -> None:
    pieces = list(cut_text(text, limit))
    assert "".join(pieces) == text
    assert all(len(piece) <= limit for piece in pieces)


def test_pieces_end_at_line_ends() -> None:
    assert list(cut_text("ab\ncd\nefgh\n", 6)) == ["ab\ncd\n", "efgh\n"]


@given(values=st.lists(st.integers(0, 40)))
def test_seen_digests_behave_like_a_set_over_all_layers(values: list[int]) -> None:
    recent = splitting.RECENT_DIGESTS
    splitting.RECENT_DIGESTS = 3
    try:
        earlier = SeenDigests()
        for value in range(0, 40, 5):
            earlier.add(digest_of(str(value)))
        seen, reference = SeenDigests([earlier.own()]), set(range(0, 40, 5))
        for value in values:
            assert seen.add(digest_of(str(value))) == (value not in reference)
            reference.add(value)
        assert len(seen.own()) == len(reference) - 8
    finally:
        splitting.RECENT_DIGESTS = recent


def test_digests_with_zero_bytes_at_the_end_differ() -> None:
    seen = SeenDigests([np.array([b"a" * 14 + b"\0\0"], dtype="S16")])
    assert not seen.add(b"a" * 14 + b"\0\0")
    assert seen.add(b"a" * 13 + b"\0\0\0")


def test_split_values_are_uniform_and_change_with_the_seed() -> None:
    digests = [digest_of(str(n)) for n in range(20_000)]
    one, two = (np.array([split_value(d, seed) for d in digests]) for seed in (1, 2))
    for values in (one, two):
        assert values.min() >= 0
        assert values.max() < 1
        np.testing.assert_allclose(np.histogram(values, 10, (0, 1))[0], 2000, atol=200)
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.03


def test_the_split_of_a_document_depends_on_its_text_alone() -> None:
    texts = [f"document number {n}" for n in range(5000)]
    forth, _ = split(texts)
    back, _ = split([*texts[::-1], "one more"])
    assert {d.text for d in forth if d.validates} == {
        d.text for d in back if d.validates and d.text != "one more"
    }
    share = sum(d.validates for d in forth) / len(forth)
    assert share == pytest.approx(0.05, abs=0.01)
    assert {d.text for d in split(texts, seed=1)[0] if d.validates} != {
        d.text for d in forth if d.validates
    }


def test_duplicates_are_dropped_here_and_across_domains() -> None:
    first = SeenDigests()
    documents, tally = split([f"text {n % 100}" for n in range(300)], seen=first)
    assert [d.text for d in documents] == [f"text {n}" for n in range(100)]
    assert (tally.kept, tally.duplicates) == (100, 200)
    later, tally = split([f"text {n}" for n in range(50, 200)], seen=SeenDigests([first.own()]))
    assert [d.text for d in later] == [f"text {n}" for n in range(100, 200)]
    assert tally.duplicates == 50


@given(
    sizes=st.lists(st.integers(1, 100), min_size=2, max_size=50),
    fraction=st.floats(0.001, 0.5),
    seed=st.integers(0, 5),
)
def test_any_two_documents_give_both_splits(sizes: list[int], fraction: float, seed: int) -> None:
    values = [(split_value(digest_of(str(n)), seed), size) for n, size in enumerate(sizes)]
    threshold = split_threshold(values, fraction)
    assert 0 < sum(value < threshold for value, _ in values) < len(values)


def test_one_long_text_is_cut_and_split_without_overlap() -> None:
    text = "".join(f"line {n} of a long text file\n" for n in range(20_000))
    documents, _ = split([text])
    assert "".join(document.text for document in documents) == text
    validation = sum(len(d.text) for d in documents if d.validates) / len(text)
    assert validation == pytest.approx(0.05, abs=0.03)
    assert len({d.text for d in documents}) == len(documents) > 100


def test_repeated_pieces_of_a_long_text_count_as_duplicates() -> None:
    page = "".join(f"line {n:05d}\n" for n in range(372)).ljust(4095) + "\n"
    documents, tally = split([page * 10 + "another end " * 200])
    assert len({d.text for d in documents}) == len(documents)
    assert tally.duplicates == 9


def test_many_documents_stay_whole_however_long() -> None:
    texts = [f"{n} " + "x" * 20_000 for n in range(80)]
    assert [d.text for d in split(texts)[0]] == texts


def test_one_short_document_is_too_small() -> None:
    with pytest.raises(DomainTooSmall, match="single document"):
        split(["short"])
    assert split([])[0] == []

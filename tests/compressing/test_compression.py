import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from mixlab.compressing import Compressed, compress, rank
from mixlab.corpora.tokenizer import end_of_text_id, train_tokenizer, vocabulary_of
from mixlab.errors import InvalidCorpus
from tests.compressing.makers import BPES, LINES, MAKERS, WORDS, byte_level, some_counts

# Random letters of all scripts, and runs of what the tokenizers know.
ANY_TEXT = st.text(st.characters(exclude_categories=("Cs",)))
KNOWN_TEXT = st.lists(
    st.sampled_from([*" \n\t.", *WORDS.split(), *LINES]) | ANY_TEXT, max_size=8
).map("".join)
every_kind = pytest.mark.parametrize("kind", MAKERS)
every_bpe = pytest.mark.parametrize("kind", BPES)


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def decoded(tokenizer: Tokenizer, text: str) -> str:
    return tokenizer.decode(ids_of(tokenizer, text), skip_special_tokens=False)


def compressed(kind: str, seed: int, part: float) -> tuple[Tokenizer, Compressed]:
    """The tokenizer, and one of a size between the smallest (0) and its own (1)."""
    tokenizer = MAKERS[kind]()
    counts = some_counts(tokenizer, seed)
    ranking = rank(tokenizer, counts)
    size = ranking.fixed + round(part * (ranking.size - ranking.fixed))
    return tokenizer, compress(tokenizer, counts, size)


@every_kind
@settings(deadline=None, max_examples=150)
@given(text=KNOWN_TEXT, seed=st.integers(0, 4), part=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
def test_every_text_comes_back_as_before(kind: str, text: str, seed: int, part: float) -> None:
    tokenizer, made = compressed(kind, seed, part)
    assert decoded(made.tokenizer, text) == decoded(tokenizer, text)
    if kind.startswith("byte_level"):
        assert decoded(made.tokenizer, text) == text


@every_bpe
@settings(deadline=None, max_examples=150)
@given(text=KNOWN_TEXT, seed=st.integers(0, 4), part=st.floats(0, 1))
def test_a_text_whose_tokens_are_all_kept_is_encoded_as_before(
    kind: str, text: str, seed: int, part: float
) -> None:
    tokenizer, made = compressed(kind, seed, part)
    new_id = {old: new for new, old in enumerate(made.kept_ids.tolist())}
    # Of any text, the tokens from the first kept one to the last one in a row.
    for word in [text, *text.split(" "), *WORDS.split()]:
        before = ids_of(tokenizer, word)
        if all(token in new_id for token in before):
            assert ids_of(made.tokenizer, word) == [new_id[token] for token in before]


@every_bpe
@pytest.mark.parametrize("part", [0.02, 0.3, 0.8])
@pytest.mark.parametrize("seed", range(3))
def test_each_kept_piece_that_could_be_reached_still_can_be(
    kind: str, part: float, seed: int
) -> None:
    tokenizer, made = compressed(kind, seed, part)
    reached = 0
    for piece in made.tokenizer.get_vocab(with_added_tokens=False):
        if [token.value for token in tokenizer.model.tokenize(piece)] == [piece]:
            assert [token.value for token in made.tokenizer.model.tokenize(piece)] == [piece]
            reached += len(piece) > 1
    assert reached


@every_kind
@pytest.mark.parametrize("part", [0.0, 0.4, 1.0])
def test_ids_are_dense_in_their_old_order_and_rows_follow(kind: str, part: float) -> None:
    tokenizer, made = compressed(kind, 1, part)
    new, old = made.tokenizer.get_vocab(), tokenizer.get_vocab()
    assert sorted(new.values()) == list(range(len(new)))
    assert {text: int(made.kept_ids[token]) for text, token in new.items()} == {
        text: old[text] for text in new
    }
    assert (np.diff(made.kept_ids) > 0).all()
    assert made.rows == vocabulary_of(tokenizer)
    assert made.tokenizer.id_to_token(end_of_text_id(made.tokenizer)) == tokenizer.id_to_token(
        end_of_text_id(tokenizer)
    )


@every_kind
def test_the_full_size_changes_nothing(kind: str) -> None:
    tokenizer, made = compressed(kind, 2, 1.0)
    before, after = json.loads(tokenizer.to_str()), json.loads(made.tokenizer.to_str())
    # The library reads decimals of scores to the last bit but one.
    old, new = before["model"].pop("vocab"), after["model"].pop("vocab")
    assert after == before
    assert list(new) == list(old) if kind in BPES else dict(new) == pytest.approx(dict(old))
    assert made.coverage == 1.0


@every_kind
def test_special_tokens_and_what_is_put_around_a_text_are_kept(kind: str) -> None:
    tokenizer, made = compressed(kind, 3, 0.0)
    old = tokenizer.encode("the the", add_special_tokens=True)
    new = made.tokenizer.encode("the the", add_special_tokens=True)
    assert [new.tokens[0], new.tokens[-1]] == [
        old.tokens[0] if len(old.ids) > len(ids_of(tokenizer, "the the")) else new.tokens[0],
        old.tokens[-1] if kind not in ("byte_level", "byte_level_whole_words") else new.tokens[-1],
    ]
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for token, kept in made.tokenizer.get_added_tokens_decoder().items():
        assert made.tokenizer.token_to_id(kept.content) == token
        added.remove(kept.content)
    assert not added
    assert [made.tokenizer.id_to_token(i) for i in new.ids] == new.tokens


@every_kind
def test_the_most_frequent_pieces_are_kept(kind: str) -> None:
    tokenizer = MAKERS[kind]()
    counts = some_counts(tokenizer, 5)
    ranking = rank(tokenizer, counts)
    size = (ranking.fixed + ranking.size) // 2
    made = compress(tokenizer, counts, size)
    assert len(made.kept_ids) == vocabulary_of(made.tokenizer) == size
    # Those that are no part of a kept one are all as frequent as any that was deleted.
    gone = np.setdiff1d(ranking.order, made.kept_ids)
    assert made.coverage == pytest.approx(counts[made.kept_ids].sum() / counts.sum())
    if kind.startswith("unigram"):
        chosen = np.setdiff1d(made.kept_ids, ranking.order[: ranking.fixed])
        assert counts[chosen].min() >= counts[gone].max()


def brute_force_parts(tokenizer: Tokenizer, piece: str) -> set[str]:
    """What a BPE has at any time while it merges a piece: its state after each merge."""
    model = json.loads(tokenizer.to_str())["model"]
    seen: set[str] = set()
    merges = [tuple(pair) for pair in model["merges"]]
    for count in range(len(merges) + 1):
        short = models.BPE(model["vocab"], merges[:count])
        seen |= {token.value for token in short.tokenize(piece)}
    return seen


def test_parts_are_those_that_merging_passes_through() -> None:
    tokenizer = train_tokenizer({"text": [WORDS] * 4}, vocabulary=300)
    rare = tokenizer.get_vocab()["\u0120return"]
    counts = np.zeros(vocabulary_of(tokenizer))
    counts[rare] = 1
    ranking = rank(tokenizer, counts)
    until = ranking.order.tolist().index(rare)
    kept = {tokenizer.id_to_token(i) for i in ranking.order[: until + 1]}
    fixed = {tokenizer.id_to_token(i) for i in ranking.order[: ranking.fixed]}
    assert kept - fixed == brute_force_parts(tokenizer, "\u0120return") - fixed


@st.composite
def random_bpes(draw: st.DrawFn) -> Tokenizer:
    """Merges of any pieces in any order, several of which may give the same piece."""
    pieces = ["a", "b", "c"]
    merges: list[tuple[str, str]] = []
    for _ in range(draw(st.integers(1, 14))):
        pair = (draw(st.sampled_from(pieces)), draw(st.sampled_from(pieces)))
        if pair not in merges and len("".join(pair)) <= 6:
            merges.append(pair)
            pieces = list(dict.fromkeys([*pieces, "".join(pair)]))
    ids = {piece: i for i, piece in enumerate(draw(st.permutations(["</s>", *pieces])))}
    return Tokenizer(models.BPE(ids, draw(st.permutations(merges))))


@settings(deadline=None, max_examples=300)
@given(tokenizer=random_bpes(), data=st.data())
def test_both_truths_hold_for_merges_in_any_order(
    tokenizer: Tokenizer, data: st.DataObject
) -> None:
    counts = data.draw(st.lists(st.integers(0, 9), min_size=(n := tokenizer.get_vocab_size()),
                                max_size=n).filter(any))  # fmt: skip
    made = compress(tokenizer, counts, data.draw(st.integers(rank(tokenizer, counts).fixed, n)))
    kept = made.tokenizer.get_vocab()
    words = data.draw(st.lists(st.text("abc", min_size=1, max_size=9), min_size=20, max_size=20))
    for word in [*words, *(piece for piece in kept if piece != "</s>")]:
        before = tokenizer.encode(word).tokens
        after = made.tokenizer.encode(word).tokens
        assert "".join(after) == word
        if set(before) <= set(kept):
            assert after == before


def test_sizes_are_nested_and_coverage_grows() -> None:
    tokenizer = byte_level()
    counts = some_counts(tokenizer, 7)
    ranking = rank(tokenizer, counts)
    assert (np.diff(ranking.covered) >= 0).all()
    assert ranking.covered[-1] == pytest.approx(1.0)
    smaller = None
    for size in range(ranking.fixed, ranking.size, 37):
        kept = set(ranking.kept(size).tolist())
        assert smaller is None or smaller < kept
        smaller = kept
    for share in (0.5, 0.9, 0.99):
        least = ranking.least(share)
        assert ranking.coverage(least) > share
        assert least == ranking.fixed or ranking.coverage(least - 1) <= share


def test_compressing_twice_is_compressing_once() -> None:
    tokenizer = byte_level()
    counts = some_counts(tokenizer, 8)
    once = compress(tokenizer, counts, 300)
    half = compress(tokenizer, counts, 400)
    twice = compress(half.tokenizer, counts[half.kept_ids], 300)
    assert twice.tokenizer.to_str() == once.tokenizer.to_str()
    assert half.kept_ids[twice.kept_ids].tolist() == once.kept_ids.tolist()


def test_what_can_not_be_compressed_says_why() -> None:
    tokenizer = byte_level()
    counts = some_counts(tokenizer, 0)
    with pytest.raises(InvalidCorpus, match=r"of 256 is no part.*257 tokens must stay.*490"):
        compress(tokenizer, counts, 256)
    with pytest.raises(InvalidCorpus, match="of 491 is no part"):
        compress(tokenizer, counts, 491)
    with pytest.raises(InvalidCorpus, match=r"490 ids, but the counts have the shape \(489,\)"):
        compress(tokenizer, counts[1:], 300)
    for bad in (0.0 * counts, np.full(490, np.nan), counts - 5.0):
        with pytest.raises(InvalidCorpus, match="finite, at least 0, and not all 0"):
            compress(tokenizer, bad, 300)
    words = Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
    with pytest.raises(InvalidCorpus, match="WordLevel tokenizer can't be compressed"):
        compress(words, [1, 1], 2)
    marked = Tokenizer(models.BPE({"a</w>": 0, "</s>": 1}, [], end_of_word_suffix="</w>"))
    with pytest.raises(InvalidCorpus, match="end_of_word_suffix '</w>'"):
        compress(marked, [1, 1], 2)


def test_bytes_written_by_a_normalizer_are_an_alphabet_too() -> None:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    vocab = {piece: i for i, piece in enumerate(["</s>", *sorted(alphabet), "th", "the"])}
    made = Tokenizer(models.BPE(vocab, [("t", "h"), ("th", "e")]))
    made.normalizer = normalizers.ByteLevel()
    assert rank(made, np.ones(len(vocab))).fixed == 257


def test_tokens_that_a_file_names_but_lacks_are_told() -> None:
    padded = byte_level_with(padding=("[PAD]", 0))
    with pytest.raises(InvalidCorpus, match=r"puts '\[PAD\]' around texts"):
        compress(padded, some_counts(padded, 0), 300)
    framed = byte_level_with()
    framed.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", 5)]
    )
    with pytest.raises(InvalidCorpus, match=r"puts '\[CLS\]' around texts"):
        rank(framed, some_counts(framed, 0))


def byte_level_with(padding: tuple[str, int] | None = None) -> Tokenizer:
    made = Tokenizer.from_str(byte_level().to_str())
    if padding is not None:
        made.enable_padding(pad_token=padding[0], pad_id=padding[1])
    return made


def test_two_tokens_under_one_id_are_told() -> None:
    """What the library makes of an added token whose id is between those of the pieces."""
    value = json.loads(byte_level().to_str())
    vocab = value["model"]["vocab"]
    value["model"]["vocab"] = {piece: i + (i >= 300) for piece, i in vocab.items()}
    end = value["added_tokens"][0]
    value["added_tokens"] = [end, {**end, "id": 300, "content": "<mid>"}]
    clash = Tokenizer.from_str(json.dumps(value))
    with pytest.raises(InvalidCorpus, match=r"'<mid>' and .* have the same id 490"):
        rank(clash, np.ones(vocabulary_of(clash)))


@settings(deadline=None, max_examples=50)
@given(text=KNOWN_TEXT)
def test_letters_stay_where_a_byte_is_missing(text: str) -> None:
    """What falls back on bytes then are the letters alone whose bytes are there."""
    value = json.loads(MAKERS["sentencepiece_bpe"]().to_str())
    value["model"]["vocab"]["<none>"] = value["model"]["vocab"].pop("<0x10>")
    tokenizer = Tokenizer.from_str(json.dumps(value))
    counts = some_counts(tokenizer, 2)
    made = compress(tokenizer, counts, rank(tokenizer, counts).fixed)
    assert decoded(made.tokenizer, text) == decoded(tokenizer, text)

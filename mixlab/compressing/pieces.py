"""A tokenizer's pieces: which must stay, and what each one is merged from.

What must stay, so that every text is still encoded, and into the same text when decoded:

    tokens that have a name       added tokens, the unknown token, the end of text, those that
                                  padding and the post-processor name
    what any text can be cut to   the 256 bytes of a byte-level tokenizer; the 256 tokens
                                  <0x00> ... <0xFF> where others fall back on bytes, and the
                                  letters that stand for something, as ▁ for a space, which
                                  bytes can't; else all pieces of one character

A piece of a BPE is the end of a row of merges, in which all parts are pieces too. Which merges
are taken in a piece doesn't depend on what stands around it: a pair that crosses its border is
never chosen before the piece is whole, or the piece would not come out. So a piece is reachable
in a smaller tokenizer if the parts of its last merge are, and theirs. Of several merges that
give a piece (SentencePiece's files list all) the last one is found by merging it.

Limits: BPE without marks of word ends, and Unigram; WordPiece and WordLevel are refused.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers

from mixlab.corpora.tokenizer import end_of_text_id, vocabulary_of
from mixlab.errors import InvalidCorpus

Parts = tuple[str, str]

BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))


@dataclass(frozen=True)
class Pieces:
    """A tokenizer's tokens by their text."""

    ids: Mapping[str, int]  # of every token, added ones among them
    rows: int  # of an embedding: the largest id plus 1
    fixed: frozenset[int]  # ids that must stay
    parts: Mapping[int, tuple[int, int]]  # of a BPE: the ids that a piece's last merge joins


def pieces_of(tokenizer: Tokenizer) -> Pieces:
    """The pieces of a BPE or a Unigram.

    Raises InvalidCorpus for another kind, and for tokens that share an id or are not there.
    """
    value = json.loads(tokenizer.to_str())
    _check_kind(value["model"])
    ids: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    _check_tokens(value, ids)
    names = {*_named(value), *_alphabet(value, ids)}
    fixed = {ids[name] for name in names if name in ids}
    return Pieces(
        ids=ids,
        rows=vocabulary_of(tokenizer),
        fixed=frozenset(fixed | {end_of_text_id(tokenizer)}),
        parts={
            ids[piece]: (ids[first], ids[second])
            for piece, (first, second) in _last_merges(value["model"]).items()
        },
    )


def _check_kind(model: Mapping[str, Any]) -> None:
    if model["type"] not in ("BPE", "Unigram"):
        raise InvalidCorpus(
            f"A {model['type']} tokenizer can't be compressed; give a BPE or a Unigram."
        )
    for mark in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(mark):
            raise InvalidCorpus(
                f"The tokenizer marks pieces with {mark} {model[mark]!r}; only byte-level and "
                "SentencePiece's BPE can be compressed, which have no such mark."
            )


def _check_tokens(value: Mapping[str, Any], ids: Mapping[str, int]) -> None:
    texts: dict[int, str] = {}
    for text, token in sorted(ids.items()):  # the library's own order differs from run to run
        if texts.setdefault(token, text) != text:
            raise InvalidCorpus(
                f"The tokenizer's tokens {texts[token]!r} and {text!r} have the same id {token}, "
                "as where an added token's is between those of the pieces; give added tokens ids "
                "behind the pieces."
            )
    for name in _put_around(value):
        if name not in ids:
            raise InvalidCorpus(
                f"The tokenizer puts {name!r} around texts (padding, post-processor), but has no "
                "such token; add it, or take that step out of its file."
            )


def processors_in(value: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """The post-processors of a tokenizer's JSON that are no sequence of others."""
    if value is None:
        return
    if value["type"] == "Sequence":
        for one in value["processors"]:
            yield from processors_in(one)
    else:
        yield value


def _named(value: Mapping[str, Any]) -> Iterator[str]:
    """Texts of the tokens that something in the file refers to."""
    model = value["model"]
    for token in value["added_tokens"]:
        yield token["content"]
    if model.get("unk_token") is not None:
        yield model["unk_token"]
    if model.get("unk_id") is not None:
        yield model["vocab"][model["unk_id"]][0]
    yield from _put_around(value)


def _put_around(value: Mapping[str, Any]) -> Iterator[str]:
    """Texts of the tokens that padding and the post-processor put around a text."""
    if value["padding"] is not None:
        yield value["padding"]["pad_token"]
    for processor in processors_in(value["post_processor"]):
        yield from _added_by(processor)


def _added_by(processor: Mapping[str, Any]) -> Iterator[str]:
    """Texts of the tokens that a post-processor puts around a text."""
    for token in processor.get("special_tokens", {}).values():
        yield from token["tokens"]
    for role in ("sep", "cls"):
        if role in processor:
            yield processor[role][0]


def _alphabet(value: Mapping[str, Any], ids: Mapping[str, int]) -> Iterator[str]:
    """Pieces that any text can be cut to."""
    if _is_byte_level(value["pre_tokenizer"]) or _is_byte_level(value["normalizer"]):
        yield from pre_tokenizers.ByteLevel.alphabet()
        return
    if value["model"].get("byte_fallback"):
        yield from BYTE_TOKENS
        # Decoders read such a letter before they put bytes together.
        steps = (value["normalizer"], value["pre_tokenizer"], value["decoder"])
        yield from (text for step in steps for text in _texts(step) if len(text) == 1)
        # A letter falls back where its own bytes are there.
        if all(token in ids for token in BYTE_TOKENS):
            return
    yield from (piece for piece in ids if len(piece) == 1)


def _texts(value: Any) -> Iterator[str]:
    """All texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts(one)


def _is_byte_level(value: Any) -> bool:
    """Whether a step, or one within it, writes text as bytes."""
    return "ByteLevel" in _texts(value)


def _last_merges(model: Mapping[str, Any]) -> dict[str, Parts]:
    """The merge that each piece of a BPE ends in; none for those that no merges give."""
    if model["type"] != "BPE":
        return {}
    ranks = {(first, second): rank for rank, (first, second) in enumerate(model["merges"])}
    found = ((piece, _last_merge(piece, ranks)) for piece in model["vocab"])
    return {piece: last for piece, last in found if last is not None}


def _last_merge(piece: str, ranks: Mapping[Parts, int]) -> Parts | None:
    """As a BPE merges: always the pair of the lowest rank, of two such the left one."""
    symbols, last = list(piece), None
    none = len(ranks)
    while len(symbols) > 1:
        found = [ranks.get(pair, none) for pair in pairwise(symbols)]
        lowest = min(found)
        if lowest == none:
            return None
        at = found.index(lowest)
        last = (symbols[at], symbols[at + 1])
        symbols[at : at + 2] = ["".join(last)]
    return last

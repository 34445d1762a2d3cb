"""Tokenizers of every kind that can be compressed, trained on a few lines of many scripts."""

import json
from collections.abc import Callable
from functools import cache

import numpy as np
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from mixlab.corpora.tokenizer import train_tokenizer, vocabulary_of

LINES = (
    "The quick brown fox jumps over the lazy dog; the dog sleeps, the fox does not.",
    "def area(width, height):\n    return width * height  # in square metres\n",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
    "今天天气很好，我们去公园。今天是星期天。",
    "Съешь ещё этих мягких булок, да выпей чаю.",
    "aaaaaaaa aaaa ---- -------- ==== 1234567890 10101010 \U0001f600\U0001f600 !!",
)
WORDS = "the quick brown lazy return returning returned height weight eighth widths then there"
TEXT = [*LINES, WORDS] * 6
NAMED = ["<unk>", "<s>", "</s>"]
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level() -> Tokenizer:
    """As mixlab trains them."""
    return train_tokenizer({"text": TEXT}, vocabulary=490)


def byte_level_whole_words() -> Tokenizer:
    """As Llama 3's: a split of its own, whole words before merges, names behind the pieces."""
    made = Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(Regex(r" ?\p{L}+| ?\p{N}{1,3}|\s+|[^\s\p{L}\p{N}]+"), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    )
    made.add_special_tokens(["<|begin|>", "<|end_of_text|>", "<|reserved|>"])
    made.add_tokens([AddedToken("\u2063\u2063", normalized=False)])
    ids = [("<|begin|>", made.token_to_id("<|begin|>"))]
    made.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing("<|begin|> $A", special_tokens=ids),
        ]
    )
    return made


def _sentencepiece(model: models.Model) -> Tokenizer:
    made = Tokenizer(model)
    steps = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    made.normalizer = normalizers.Sequence(steps)
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return made


def _finished(made: Tokenizer) -> Tokenizer:
    made.add_special_tokens(NAMED)
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 1))
    made.enable_padding(pad_id=0, pad_token="<unk>")
    return made


def sentencepiece_bpe() -> Tokenizer:
    """As Llama 2's: bytes for what is unknown, and every way to merge a piece."""
    trained = _sentencepiece(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    trained.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=420, show_progress=False))
    pieces = sorted(trained.get_vocab(), key=trained.token_to_id)
    # SentencePiece has the pieces of several letters first, in their order, then single ones.
    pieces.sort(key=lambda piece: len(piece) == 1)
    known = set(pieces)
    merges = [
        (piece[:cut], piece[cut:])
        for piece in pieces
        for cut in range(1, len(piece))
        if piece[:cut] in known and piece[cut:] in known
    ]
    vocab = {piece: i for i, piece in enumerate([*NAMED, *BYTE_TOKENS, *pieces])}
    model = models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    return _finished(_sentencepiece(model))


def bpe_of_characters() -> Tokenizer:
    """Without bytes: what it doesn't know is unknown."""
    made = _sentencepiece(models.BPE(unk_token="<unk>", fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=NAMED, show_progress=False)
    made.train_from_iterator(TEXT, trainer)
    return _finished(made)


def _unigram(*, byte_fallback: bool) -> Tokenizer:
    trained = _sentencepiece(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=250, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    trained.train_from_iterator(TEXT, trainer)
    pieces = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["vocab"][1:]]
    named = [*NAMED, *(BYTE_TOKENS if byte_fallback else [])]
    vocab = [*((name, 0.0) for name in named), *pieces]
    return _finished(_sentencepiece(models.Unigram(vocab, 0, byte_fallback)))


def unigram() -> Tokenizer:
    return _unigram(byte_fallback=False)


def unigram_of_bytes() -> Tokenizer:
    return _unigram(byte_fallback=True)


MAKERS: dict[str, Callable[[], Tokenizer]] = {
    maker.__name__: cache(maker)
    for maker in (
        byte_level,
        byte_level_whole_words,
        sentencepiece_bpe,
        bpe_of_characters,
        unigram,
        unigram_of_bytes,
    )
}
BPES = [name for name in MAKERS if not name.startswith("unigram")]


def some_counts(tokenizer: Tokenizer, seed: int) -> np.ndarray:
    """Counts that have nothing to do with how the tokenizer was trained, many of them 0."""
    chance = np.random.default_rng(seed)
    return chance.poisson(chance.exponential(2, vocabulary_of(tokenizer)) ** 2)

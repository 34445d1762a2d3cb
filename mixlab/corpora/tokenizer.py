"""A byte-level BPE: trained on a sample, or taken as given.

Byte-level, so that every text can be written and nothing becomes an unknown token.
Documents are separated by an end-of-text token, which text can't forge: where a document
spells it out, it is encoded as ordinary characters.

Source: Hugging Face tokenizers; pre-tokenisation as in GPT-2.
Limits: a given tokenizer may normalise text as its file says; its post-processor (added
begin and end tokens), padding and truncation are not used.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from mixlab.errors import InvalidCorpus, MissingFile, TruncatedFile

END_OF_TEXT = "<|endoftext|>"
# Of known tokenizers, in the order in which they are looked for.
END_OF_TEXT_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "[EOS]")
BYTES = 256
# Training takes the square of a word's length: 48 s for one of 200,000 letters, hours for more.
_LONG_RUN = re.compile(r"\S{1000}")
STRANGE_TEXT = "words, \u00e9\u4e16\U0001f600 \x00"


def train_tokenizer(samples: Mapping[str, Iterable[str]], *, vocabulary: int) -> Tokenizer:
    """A byte-level BPE with at most `vocabulary` tokens, the end-of-text token (id 0) among them.

    `samples` are texts by domain, already of the sizes that they shall count with. The same
    samples give the same tokenizer. Raises InvalidCorpus for a vocabulary below 257.
    """
    if vocabulary <= BYTES:
        raise InvalidCorpus(
            f"A byte-level vocabulary needs at least {BYTES + 1} tokens (256 bytes and the end "
            f"of text), not {vocabulary}."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (piece for domain in samples.values() for text in domain for piece in _pieces(text))
    tokenizer.train_from_iterator(texts, trainer)
    return _plain(tokenizer)


def _pieces(text: str) -> Iterator[str]:
    """The text, cut within runs that no language writes without a space, such as base64."""
    start = 0
    for run in _LONG_RUN.finditer(text):
        yield text[start : run.end()]
        start = run.end()
    yield text[start:]


def load_tokenizer(path: Path | str) -> Tokenizer:
    """The tokenizer of a `tokenizer.json`.

    Raises MissingFile, TruncatedFile for a file that is no tokenizer, and InvalidCorpus for
    one without an end-of-text token, or that can't encode every text.
    """
    if not Path(path).is_file():
        raise MissingFile(f"There is no tokenizer at {path}; give a tokenizer.json.")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise TruncatedFile(
            f"{path} is not a tokenizer.json that this version of tokenizers reads ({error})."
        ) from error
    end_of_text_id(tokenizer)
    _check_it_encodes(tokenizer, path)
    return _plain(tokenizer)


def _check_it_encodes(tokenizer: Tokenizer, path: Path | str) -> None:
    try:
        tokenizer.encode(STRANGE_TEXT)
    except Exception as error:  # the library raises nothing narrower
        raise InvalidCorpus(
            f"The tokenizer {path} can't encode every text ({error}); give it an unknown token, "
            "or take a byte-level one."
        ) from error


def end_of_text_id(tokenizer: Tokenizer) -> int:
    """The id of the token that ends documents. Raises InvalidCorpus where there is none."""
    for name in END_OF_TEXT_NAMES:
        found = tokenizer.token_to_id(name)
        if found is not None:
            return int(found)
    raise InvalidCorpus(
        "The tokenizer has no end-of-text token (looked for "
        f"{', '.join(END_OF_TEXT_NAMES)}); add one of them as a special token."
    )


def vocabulary_of(tokenizer: Tokenizer) -> int:
    """How many rows an embedding needs: the largest id plus 1, gaps and added tokens included."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def _plain(tokenizer: Tokenizer) -> Tokenizer:
    """Without what a file may ask for and shards must not have."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    # Otherwise text that spells a special token out would end a document.
    tokenizer.encode_special_tokens = True
    return tokenizer

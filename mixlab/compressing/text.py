"""How many tokens and bytes a corpus's text is, and losses that vocabularies don't change.

A loss in nats per token can't be compared between two vocabularies, for their tokens are not
equally long. Per byte of the text it can:

    bits per byte = nats per token * (tokens / bytes) / ln 2.

The text is what the stored tokens decode to, in UTF-8. A document's end-of-text token is one of
its tokens, since it is predicted like all others, and no byte. Tokens per byte are of the whole
split or of its first `most_tokens`; a loss of other windows of it has about the same.
Limits: text that a tokenizer normalises is counted as normalised.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from math import inf, log

import numpy as np
from tokenizers import Tokenizer

from mixlab.corpora.parts import encode
from mixlab.corpora.shards import TokenisedCorpus, Tokens
from mixlab.corpora.tokenizer import end_of_text_id, vocabulary_of
from mixlab.errors import DomainTooSmall, InvalidCorpus

BATCH_DOCUMENTS = 256
# Enough to tell a foreign tokenizer: a document's own never fails on all of them. Shorter texts
# may be encoded alike by chance.
COMPARED_DOCUMENTS = 32
COMPARED_TOKENS = range(32, 20_000)


@dataclass(frozen=True)
class TextSize:
    """Documents of one domain and split, and what they are encoded to."""

    documents: int
    bytes: int  # UTF-8
    tokens: int  # end-of-text tokens among them

    @property
    def tokens_per_byte(self) -> float:
        """Tokens that a byte of text costs."""
        return self.tokens / self.bytes


def bits_per_byte(
    nats_per_token: Mapping[str, float], sizes: Mapping[str, TextSize]
) -> dict[str, float]:
    """Losses of domains in bits per byte of their text. Raises InvalidCorpus for one unmeasured."""
    for name in nats_per_token:
        if name not in sizes:
            raise InvalidCorpus(
                f"The text of {name!r} was not measured; it has {', '.join(sizes)}."
            )
    return {
        name: nats * sizes[name].tokens_per_byte / log(2) for name, nats in nats_per_token.items()
    }


def text_sizes(
    corpus: TokenisedCorpus,
    tokenizer: Tokenizer,
    *,
    encoded_by: Tokenizer | None = None,
    split: str = "validation",
    most_tokens: int | None = None,
) -> dict[str, TextSize]:
    """Bytes and tokens of every domain, of the whole split or its first `most_tokens` and some.

    `tokenizer` is the corpus's own. Tokens are those stored, or with `encoded_by` those that
    this tokenizer would give the same text. Raises InvalidCorpus for a tokenizer of another
    corpus, DomainTooSmall for a domain without text in that split.
    """
    check_own(corpus, tokenizer)
    found = {}
    for domain in corpus.domains:
        size = _size(corpus, tokenizer, encoded_by, domain, split, most_tokens or inf)
        if size.bytes == 0:
            raise DomainTooSmall(
                f"Domain {domain!r} has no {split} text to measure; add documents to it."
            )
        found[domain] = size
    return found


def _size(
    corpus: TokenisedCorpus,
    tokenizer: Tokenizer,
    encoded_by: Tokenizer | None,
    domain: str,
    split: str,
    most_tokens: float,
) -> TextSize:
    documents = stored = byte_count = tokens = 0
    stream = _documents(corpus, domain, split)
    while stored < most_tokens and (batch := list(islice(stream, BATCH_DOCUMENTS))):
        texts = _decoded(batch, tokenizer)
        documents += len(batch)
        stored += sum(map(len, batch))
        byte_count += sum(len(text.encode()) for text in texts)
        if encoded_by is not None:
            end = end_of_text_id(encoded_by)
            tokens += sum(map(len, encode(texts, encoded_by, np.uint32, end)))
    return TextSize(documents, byte_count, stored if encoded_by is None else tokens)


def _documents(corpus: TokenisedCorpus, domain: str, split: str) -> Iterator[Tokens]:
    """The tokens of each document, end-of-text among them."""
    for shard in corpus.shards(domain, split):
        tokens, starts = shard.tokens(), shard.starts()
        for begin, end in zip(starts, [*starts[1:], len(tokens)], strict=True):
            yield np.asarray(tokens[begin:end])


def _decoded(documents: list[Tokens], tokenizer: Tokenizer) -> list[str]:
    """Their texts, without the end-of-text token behind each."""
    ids = [document[:-1].tolist() for document in documents]
    texts: list[str] = tokenizer.decode_batch(ids, skip_special_tokens=False)
    return texts


def check_own(corpus: TokenisedCorpus, tokenizer: Tokenizer) -> None:
    """Raise InvalidCorpus where the tokenizer can't be the one that made the corpus.

    Its size and end-of-text token must be the manifest's, and of some documents one at least
    must be what it gives for their text.
    """
    found = (vocabulary_of(tokenizer), end_of_text_id(tokenizer))
    if found != (corpus.vocabulary, corpus.end_of_text_id):
        raise InvalidCorpus(
            f"The tokenizer has {found[0]:,} ids and ends texts with {found[1]}, but the corpus "
            f"in {corpus.folder} has {corpus.vocabulary:,} and {corpus.end_of_text_id}; give the "
            "tokenizer.json in its folder."
        )
    for domain in corpus.domains:
        some = islice(_documents(corpus, domain, "train"), COMPARED_DOCUMENTS)
        stored = [document for document in some if len(document) in COMPARED_TOKENS]
        again = encode(_decoded(stored, tokenizer), tokenizer, np.uint32, corpus.end_of_text_id)
        if stored and not any(map(np.array_equal, stored, again)):
            raise InvalidCorpus(
                f"The tokenizer encodes no document of {domain!r} as it is in {corpus.folder}: it "
                "is another corpus's; give the one that this corpus was made with."
            )

"""A corpus whose tokenizer is another one's, compressed: what is checked before it is recorded."""

from typing import Any

from api.corpora.schemas import CompressBody, CorpusBody
from api.mixtures.checks import checked_proportions
from mixlab.errors import InvalidCorpus, InvalidMixture, NotReady
from mixlab.ledger.records import Corpus
from mixlab.ledger.sql import Ledger


def checked_compression(body: CorpusBody, ledger: Ledger) -> dict[str, Any] | None:
    """What the job needs to know, the mixture over all domains of its corpus; None if not asked.

    Raises InvalidCorpus for a second tokenizer, InvalidMixture, UnknownCorpus, UnknownMixture,
    and NotReady for a corpus whose tokens aren't counted.
    """
    asked = body.compress
    if asked is None:
        return None
    others = [name for name in ("tokenizer_file", "vocabulary") if name in body.model_fields_set]
    if others:
        named = f"{', '.join(['compress', *others[:-1]])} and {others[-1]}"
        raise InvalidCorpus(
            f"{named} exclude each other: compress names the tokenizer and has a vocabulary of its "
            "own; leave out the one or the other."
        )
    source = ledger.corpus(asked.corpus_id)
    if source.tokens is None:
        raise NotReady(
            f"The tokens of {source.id} are not counted yet, so nobody knows which of them a "
            f"mixture needs; POST /corpora/{source.id}/entropy first."
        )
    return {
        "corpus_id": source.id,
        "vocabulary": asked.vocabulary,
        "mixture_id": asked.mixture_id,
        "proportions": _proportions(asked, source, ledger),
    }


def _proportions(asked: CompressBody, source: Corpus, ledger: Ledger) -> dict[str, float]:
    given = [one for one in (asked.mixture_id, asked.proportions) if one is not None]
    if len(given) != 1:
        raise InvalidMixture(
            "A tokenizer is compressed for one mixture: give one of compress.mixture_id and "
            f"compress.proportions; {len(given)} of them were given."
        )
    if asked.mixture_id is not None:
        return checked_proportions(ledger.mixture(asked.mixture_id).proportions, source)
    return checked_proportions(asked.proportions or {}, source)

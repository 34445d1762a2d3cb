"""A tokenizer with fewer tokens: the rest is deleted, nothing is trained again.

Merges stay in their order where both parts and what they give are kept; ids are dense and in
their old order. Two truths follow for a BPE, since what was chosen before is still there and
still comes first: each piece that could be reached still can be, and a text whose tokens were
all kept is encoded as before. Other texts are cut to shorter pieces.

Sources: YuchuanTian/RethinkTinyLM (PanGu-pi Pro, arXiv 2402.02791), src/step3.
Limits: a text in which a Unigram would now choose another cut of the same pieces may get it,
since its penalty of unknown characters goes by the least score that is left.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
from tokenizers import Tokenizer

from mixlab.compressing.pieces import processors_in
from mixlab.compressing.ranking import Ids, rank
from mixlab.errors import InvalidCorpus


@dataclass(frozen=True)
class Compressed:
    """A smaller tokenizer, and where its tokens were."""

    tokenizer: Tokenizer
    kept_ids: Ids  # (token,), ascending: the old id of each new one
    rows: int  # of the old tokenizer's embedding: its largest id plus 1
    coverage: float  # share of the corpus's tokens that were kept


def compress(tokenizer: Tokenizer, counts: npt.ArrayLike, vocabulary: int) -> Compressed:
    """The tokenizer's alphabet, special tokens and most frequent pieces, `vocabulary` in all.

    `counts` are of shape (token,), by the tokenizer's ids: counts, or shares at a mixture. Every
    text is still encoded. Raises InvalidCorpus for a vocabulary below what must stay or above
    what there is, for counts of another tokenizer, and for a kind that can't be compressed.
    """
    ranking = rank(tokenizer, counts)
    kept = ranking.kept(vocabulary)
    texts = {token: text for text, token in tokenizer.get_vocab(with_added_tokens=True).items()}
    new_ids = {texts[token]: new for new, token in enumerate(kept.tolist())}
    made = Tokenizer.from_str(json.dumps(_renumbered(json.loads(tokenizer.to_str()), new_ids)))
    made.encode_special_tokens = tokenizer.encode_special_tokens
    if made.get_vocab(with_added_tokens=True) != new_ids:
        raise InvalidCorpus(
            "The tokenizer's added tokens have ids between those of its pieces, which a smaller "
            "one can't have; give them ids behind the pieces."
        )
    return Compressed(made, kept, max(texts) + 1, ranking.coverage(vocabulary))


def _renumbered(value: dict[str, Any], ids: Mapping[str, int]) -> dict[str, Any]:
    """A tokenizer's JSON with those tokens alone, under those ids."""
    model = value["model"]
    if model["type"] == "BPE":
        model["vocab"] = {piece: ids[piece] for piece in model["vocab"] if piece in ids}
        model["merges"] = [
            (first, second)
            for first, second in model["merges"]
            if first in ids and second in ids and first + second in ids
        ]
    else:
        unknown = None if model["unk_id"] is None else model["vocab"][model["unk_id"]][0]
        model["unk_id"] = None if unknown is None else ids[unknown]
        model["vocab"] = [(piece, score) for piece, score in model["vocab"] if piece in ids]
    for token in value["added_tokens"]:
        token["id"] = ids[token["content"]]
    if value["padding"] is not None:
        value["padding"]["pad_id"] = ids[value["padding"]["pad_token"]]
    for processor in processors_in(value["post_processor"]):
        for token in processor.get("special_tokens", {}).values():
            token["ids"] = [ids[text] for text in token["tokens"]]
        for role in ("sep", "cls"):
            if role in processor:
                processor[role] = (processor[role][0], ids[processor[role][0]])
    return value

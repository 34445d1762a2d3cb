"""Smaller tokenizers: the pieces that a corpus at a mixture needs least are deleted.

    shares = shares_in(corpus, mixture)                  of each token (counting.py)
    smaller = compress(tokenizer, shares, vocabulary)    compression.py
    compress_model(open_model(run), folder, smaller)     embedding and head follow (weights.py)

`rank` has the coverage of every size and `suggested` one that suits a shape (ranking.py,
suggesting.py). What a vocabulary is worth tells the loss in bits per byte (text.py).
"""

from mixlab.compressing.compression import Compressed, compress
from mixlab.compressing.counting import shares_at, shares_in, token_counts
from mixlab.compressing.ranking import Ranking, check_vocabulary, rank
from mixlab.compressing.suggesting import Suggestion, suggested, tables_share
from mixlab.compressing.text import TextSize, bits_per_byte, check_own, text_sizes
from mixlab.compressing.weights import (
    Model,
    check_model,
    compress_model,
    compress_weights,
    open_model,
)

__all__ = [
    "Compressed",
    "Model",
    "Ranking",
    "Suggestion",
    "TextSize",
    "bits_per_byte",
    "check_model",
    "check_own",
    "check_vocabulary",
    "compress",
    "compress_model",
    "compress_weights",
    "open_model",
    "rank",
    "shares_at",
    "shares_in",
    "suggested",
    "tables_share",
    "text_sizes",
    "token_counts",
]

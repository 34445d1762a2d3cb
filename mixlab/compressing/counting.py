"""How often each token occurs at a mixture.

Counts are exact, of every training token of a domain, shard by shard: the shards are mapped, so
memory is one chunk and one count a token. At a mixture a token's share is

    share(t) = sum over domains d of  proportion(d) * count(d, t) / tokens(d),

its part of the tokens that a run on that mixture reads, however large the domains are.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from mixlab.corpora.shards import Shard, TokenisedCorpus
from mixlab.errors import EmptyDomain, TruncatedFile
from mixlab.mixture import Array, Mixture

Counts = npt.NDArray[np.int64]

CHUNK_TOKENS = 1 << 20


def token_counts(
    corpus: TokenisedCorpus, domains: Iterable[str] | None = None, *, split: str = "train"
) -> dict[str, Counts]:
    """How often each id occurs in each domain, shape (token,); of all domains by default.

    Raises InvalidCorpus for a domain that the corpus lacks, and TruncatedFile for a shard that
    is damaged or holds an id beyond the vocabulary.
    """
    names = corpus.domains if domains is None else tuple(domains)
    shards = {name: corpus.shards(name, split) for name in names}
    return {name: _counts(corpus.vocabulary, own) for name, own in shards.items()}


def _counts(vocabulary: int, shards: Iterable[Shard]) -> Counts:
    counts = np.zeros(vocabulary, np.int64)
    for shard in shards:
        tokens = shard.tokens()
        for start in range(0, len(tokens), CHUNK_TOKENS):
            found = np.bincount(tokens[start : start + CHUNK_TOKENS], minlength=len(counts))
            if len(found) > len(counts):
                raise TruncatedFile(
                    f"{shard.folder / shard.entry.file} holds the token {len(found) - 1}, but the "
                    f"corpus's vocabulary ends at {len(counts) - 1}; tokenise again."
                )
            counts += found
    return counts


def shares_in(corpus: TokenisedCorpus, mixture: Mixture) -> Array:
    """`shares_at` of a corpus, whose domains are counted as far as the mixture has them.

    Raises what both raise.
    """
    return shares_at(token_counts(corpus, [name for name, share in mixture if share]), mixture)


def shares_at(counts: Mapping[str, Counts], mixture: Mixture) -> Array:
    """Each token's share of what a run on the mixture reads, shape (token,); they sum to 1.

    Raises EmptyDomain where a domain of the mixture has no token.
    """
    shares = np.zeros(len(next(iter(counts.values()))))
    for domain, proportion in mixture:
        if proportion == 0:
            continue
        if domain not in counts or not counts[domain].any():
            raise EmptyDomain(
                f"Domain {domain!r} has a share of {proportion:g}, but no token was counted in "
                "it; count it too, or give it no share."
            )
        shares += proportion * counts[domain] / counts[domain].sum()
    total: float = shares.sum()
    return np.divide(shares, total)

"""Shannon, joint and conditional entropy of a domain's tokens, in nats, with standard errors.

    shannon      H(X)       = -sum P(x) ln P(x)              over tokens
    joint        H(X, X')   = -sum P(x, x') ln P(x, x')      over adjacent pairs (t, t + 1)
    conditional  H(X' | X)  = -sum P(x, x') ln P(x' | x)     over the same pairs
    first        H(X)       of the pairs' first tokens, so that joint = first + conditional

P are relative frequencies (plug-in). `first` and `shannon` differ only by the documents'
last tokens. The conditional entropy is a bigram model's loss in nats per token.

Bias: with N samples of K kinds the plug-in estimate is too low by about (K - 1) / 2N; the
Miller-Madow estimates add that. It matters for pairs: K is in the millions.
Standard errors: delete-one-block jackknife, for blocks of unequal size (delete-m_j). A block
is a shard or a run of documents; documents within a block may depend on each other.

Sources: arXiv 2405.14908, appendix A, eq. 12, 17 and 18 (base and correction not stated
there); Miller 1955, Note on the bias of information estimates; Busing, Meijer and van der
Leeden 1999, Delete-m jackknife for unequal m.
Limits: Miller-Madow is of first order, and still low where most pairs are seen once. The
jackknife knows the spread between blocks, not the remaining bias.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite, log, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import xlogy

from mixlab.entropy.counts import Counts, PairCounts
from mixlab.errors import DomainTooSmall

Array = npt.NDArray[np.float64]

# Rounding of sums over millions of counts stays below 1e-11 nats.
CHAIN_RULE_TOLERANCE_NATS = 1e-9


@dataclass(frozen=True)
class Entropies:
    """One estimate of the three measures, in nats; `first` closes the chain rule."""

    shannon: float
    joint: float
    conditional: float
    first: float

    def to_dict(self) -> dict[str, float | None]:
        """The four by name, None for one that is not known."""
        return {name: value if isfinite(value) else None for name, value in vars(self).items()}


@dataclass(frozen=True)
class EntropyMeasures:
    """A domain's entropies in nats: plug-in, Miller-Madow, and standard errors of both."""

    plug_in: Entropies
    miller_madow: Entropies
    standard_error: Entropies  # of plug_in; NaN where there is only one block
    miller_madow_standard_error: Entropies
    tokens: int
    pairs: int
    distinct_tokens: int
    distinct_pairs: int
    blocks: int  # that the jackknife left out one by one

    @property
    def shannon(self) -> float:
        """Plug-in Shannon entropy, nats per token."""
        return self.plug_in.shannon

    @property
    def joint(self) -> float:
        """Plug-in joint entropy of adjacent tokens, nats per pair."""
        return self.plug_in.joint

    @property
    def conditional(self) -> float:
        """Plug-in conditional entropy of a token given the one before, nats per token."""
        return self.plug_in.conditional

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: the plug-in measures at the top, the rest beside them."""
        return {
            **self.plug_in.to_dict(),
            "miller_madow": self.miller_madow.to_dict(),
            "standard_error": self.standard_error.to_dict(),
            "miller_madow_standard_error": self.miller_madow_standard_error.to_dict(),
            "tokens": self.tokens,
            "pairs": self.pairs,
            "distinct_tokens": self.distinct_tokens,
            "distinct_pairs": self.distinct_pairs,
            "blocks": self.blocks,
        }


def measures(blocks: Iterable[PairCounts]) -> EntropyMeasures:
    """Entropies of all blocks together, with a jackknife over the blocks.

    Blocks are shards, or parts of one (`count_blocks`). They are iterated twice: a collection
    that counts anew each time keeps only the total and one block in memory.

    Raises DomainTooSmall where no document has two tokens.
    """
    total = PairCounts.total(blocks)
    if total.pairs == 0:
        raise DomainTooSmall(
            "There is no pair of adjacent tokens to measure; give a domain with at least one "
            "document of two tokens."
        )
    whole = _Whole.of(total)
    sums = whole.sums
    left_out = [whole.without(block) for block in blocks if block.pairs > 0]
    plug_in, corrected = sums.plug_in(), sums.miller_madow()
    _check_chain_rule(total, plug_in)
    sizes = np.array([sums.pairs.total - rest.pairs.total for rest in left_out])
    weights = sums.pairs.total / sizes  # (block,)
    return EntropyMeasures(
        plug_in=plug_in,
        miller_madow=corrected,
        standard_error=_jackknife(plug_in, [s.plug_in() for s in left_out], weights),
        miller_madow_standard_error=_jackknife(
            corrected, [s.miller_madow() for s in left_out], weights
        ),
        tokens=sums.tokens.total,
        pairs=sums.pairs.total,
        distinct_tokens=sums.tokens.kinds,
        distinct_pairs=sums.pairs.kinds,
        blocks=len(left_out),
    )


@dataclass(frozen=True)
class _Sum:
    """What the entropy of one count vector depends on."""

    total: int
    kinds: int
    n_log_n: float

    @classmethod
    def of(cls, counts: Counts) -> "_Sum":
        return cls(int(counts.sum()), int(np.count_nonzero(counts)), _n_log_n(counts))

    def without(self, counts: Counts, removed: Counts) -> "_Sum":
        """After taking `removed` from those counts, which are the ones that it touches."""
        rest = counts - removed
        return _Sum(
            self.total - int(removed.sum()),
            self.kinds - int(np.count_nonzero(counts)) + int(np.count_nonzero(rest)),
            self.n_log_n - _n_log_n(counts) + _n_log_n(rest),
        )

    def entropy(self) -> float:
        return log(self.total) - self.n_log_n / self.total if self.total else float("nan")

    def correction(self) -> float:
        return (self.kinds - 1) / (2 * self.total) if self.total else float("nan")


@dataclass(frozen=True)
class _Sums:
    """The sums of tokens, pairs and the pairs' first tokens."""

    tokens: _Sum
    pairs: _Sum
    firsts: _Sum

    def plug_in(self) -> Entropies:
        joint, first = self.pairs.entropy(), self.firsts.entropy()
        return Entropies(self.tokens.entropy(), joint, joint - first, first)

    def miller_madow(self) -> Entropies:
        joint = self.pairs.entropy() + self.pairs.correction()
        first = self.firsts.entropy() + self.firsts.correction()
        shannon = self.tokens.entropy() + self.tokens.correction()
        return Entropies(shannon, joint, joint - first, first)


@dataclass(frozen=True)
class _Whole:
    """All blocks together, ready to leave one out."""

    counts: PairCounts
    tokens: Counts  # (id,)
    firsts: Counts  # (id,)
    sums: _Sums

    @classmethod
    def of(cls, counts: PairCounts) -> "_Whole":
        tokens, firsts = counts.tokens(), counts.firsts()
        return cls(
            counts, tokens, firsts, _Sums(_Sum.of(tokens), _Sum.of(counts.counts), _Sum.of(firsts))
        )

    def without(self, block: PairCounts) -> _Sums:
        """The sums without one block; looks only at what the block holds."""
        touched = np.searchsorted(self.counts.keys, block.keys)
        tokens, firsts = block.tokens(), block.firsts()
        return _Sums(
            tokens=self.sums.tokens.without(self.tokens[: len(tokens)], tokens),
            pairs=self.sums.pairs.without(self.counts.counts[touched], block.counts),
            firsts=self.sums.firsts.without(self.firsts[: len(firsts)], firsts),
        )


def _n_log_n(counts: Counts) -> float:
    values = counts.astype(np.float64)
    return float(xlogy(values, values).sum())


def _check_chain_rule(total: PairCounts, found: Entropies) -> None:
    """Hold the conditional entropy, as the paper sums it, against joint minus first."""
    firsts = total.firsts()[(total.keys >> np.uint64(32)).astype(np.int64)]
    direct = -float((total.counts * np.log(total.counts / firsts)).sum()) / total.pairs
    gap = abs(found.joint - (found.first + direct))
    if gap > CHAIN_RULE_TOLERANCE_NATS * max(1.0, found.joint):
        raise ArithmeticError(f"Joint differs from first + conditional entropy by {gap} nats.")


def _jackknife(whole: Entropies, left_out: list[Entropies], weights: Array) -> Entropies:
    """Standard errors from the estimates without each block; weights are N over block size."""
    blocks = len(left_out)
    if blocks < 2:
        return Entropies(*[float("nan")] * 4)
    partial = np.array([list(vars(entropies).values()) for entropies in left_out])
    full = np.array(list(vars(whole).values()))
    pseudo = weights[:, None] * full - (weights[:, None] - 1) * partial  # (block, measure)
    centre = blocks * full - ((1 - 1 / weights[:, None]) * partial).sum(axis=0)
    variance = ((pseudo - centre) ** 2 / (weights[:, None] - 1)).sum(axis=0) / blocks
    return Entropies(*(sqrt(value) for value in variance.tolist()))

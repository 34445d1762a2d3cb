"""How large a vocabulary should be: two rules of thumb, and whether they agree.

    coverage            the kept tokens are more than 90 % of the corpus: so many at least
    embedding and head  are less than 20 % of the parameters: so many at most,

where a vocabulary of V takes e V d of e V d + rest parameters, with e = 2 tables, or 1 where
the head is tied. Between them the most is suggested, as in PanGu-pi Pro: 48,000 tokens of width
1,792 cover 97.9 % and take 17.2 %.

Source: PanGu-pi Pro, arXiv 2402.02791, of which both rules are known from notes alone.
Limits: rules of thumb; the loss per byte of two runs tells (text.py).
"""

from dataclasses import dataclass

from mixlab.compressing.ranking import Ranking
from mixlab.errors import InvalidRecipe
from mixlab.recipes import Architecture

COVERAGE = 0.90
TABLES_SHARE = 0.20


@dataclass(frozen=True)
class Suggestion:
    """What the two rules say of a tokenizer, a corpus and a shape."""

    least: int  # tokens that cover enough
    most: int  # tokens whose tables are small enough; 0 where no vocabulary's are
    vocabulary: int | None  # None where the rules contradict each other
    reason: str

    @property
    def contradictory(self) -> bool:
        """Whether no vocabulary obeys both rules."""
        return self.vocabulary is None


def tables_share(shape: Architecture, vocabulary: int) -> float:
    """The share of embedding and head in the parameters, were that the vocabulary."""
    tables = _tables_width(shape) * vocabulary
    return tables / (tables + _rest(shape))


def suggested(
    ranking: Ranking,
    shape: Architecture,
    *,
    coverage: float = COVERAGE,
    share: float = TABLES_SHARE,
) -> Suggestion:
    """The size that both rules allow, or why there is none.

    The shape's own vocabulary plays no part. Raises InvalidRecipe for a coverage or a share
    that is not between 0 and 1.
    """
    for name, value in (("coverage", coverage), ("share of the tables", share)):
        if not 0 < value < 1:
            raise InvalidRecipe(f"The {name} is {value}; it must be more than 0 and less than 1.")
    least = ranking.least(coverage)
    most = min(_most(shape, share), ranking.size)
    agreed = most >= least
    if agreed:
        reason = (
            f"{least:,} to {most:,} tokens cover more than {coverage:.0%} and leave embedding and "
            f"head below {share:.0%} of the parameters; {most:,} cover "
            f"{ranking.coverage(most):.2%}."
        )
    else:
        reason = (
            f"The rules contradict each other: {least:,} tokens are needed to cover more than "
            f"{coverage:.0%}, whose tables are {tables_share(shape, least):.1%} of the "
            f"parameters, and at most {most:,} keep these below {share:.0%}. Take a larger model, "
            "or give up one of the rules."
        )
    return Suggestion(least, most, most if agreed else None, reason)


def _most(shape: Architecture, share: float) -> int:
    """The largest vocabulary whose tables have less than that share."""
    most = int(share / (1 - share) * _rest(shape) / _tables_width(shape)) + 1
    while most and tables_share(shape, most) >= share:
        most -= 1
    return most


def _tables_width(shape: Architecture) -> int:
    """Parameters that one token costs."""
    return shape.width * (1 if shape.tied_head else 2)


def _rest(shape: Architecture) -> int:
    """Parameters that no vocabulary changes: blocks and the final norm."""
    return shape.block_parameters + shape.width

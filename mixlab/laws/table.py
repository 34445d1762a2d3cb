"""The laws as a table, for listings: what each says, where from, and how much it takes to fit."""

from dataclasses import dataclass

from mixlab.laws import LAWS
from mixlab.laws.law import Law


@dataclass(frozen=True)
class Row:
    """One law in words and numbers, ready for JSON."""

    name: str
    formula: str
    source: str
    validity: str
    parameters: str  # as a formula in m, the number of domains
    needs: tuple[str, ...]  # beside mixtures, steps and losses
    minimum_mixtures: int
    convex: bool
    falls_with_step: bool
    zero_shares: bool
    residual: str | None


def table() -> tuple[Row, ...]:
    """Every law, in the registry's order."""
    return tuple(_row(law) for law in LAWS.values())


def _row(law: Law) -> Row:
    return Row(
        name=law.name,
        formula=law.formula,
        source=law.source,
        validity=law.validity,
        parameters=_count(law),
        needs=_needs(law),
        minimum_mixtures=law.minimum_mixtures,
        convex=law.convex and law.residual is None,
        falls_with_step=law.falls_with_step and law.residual is None,
        zero_shares=law.zero_shares,
        residual=law.residual,
    )


def _count(law: Law) -> str:
    """For a target with an own domain."""
    two, three = (len(law.parameters(tuple("abc"[:m]), 0)) for m in (2, 3))
    each, rest = three - two, two - 2 * (three - two)
    if not each:
        return str(rest)
    times = "m" if each == 1 else f"{each}m"
    return times if not rest else f"{times} {'+' if rest > 0 else '-'} {abs(rest)}"


def _needs(law: Law) -> tuple[str, ...]:
    wanted = {
        "targets named like domains": law.needs_own_share,
        "params where sizes differ": law.needs_params,
        "unique_tokens": law.needs_unique_tokens,
        "the extra lightgbm": law.residual == "trees",
    }
    return tuple(name for name, needed in wanted.items() if needed)

"""Multipliers of the constraints that hold a solution, and what they mean in plain words.

At an optimum the objective's slope is balanced by the constraints that are touched:

    slope + multiplier + sum over touched rows of price * coefficients = 0,  price >= 0

solved by non-negative least squares. A price is the fall of the objective per unit by which the
row's limit rises. Where several sets of prices balance (more rows touched than needed), each is an
upper bound of what loosening gains, as is every price for more than a little loosening.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from mixlab.mixture import Array
from mixlab.solvers.constraints import Constraints, Seen
from mixlab.solvers.program import divergence_slope
from mixlab.solvers.region import OF_A_SHARE, Region
from mixlab.solvers.repetition import Discounted
from mixlab.solvers.solution import ActiveConstraint, Price

TOUCHED = 1e-9  # slack below which a row counts as touched
LOOSER = 0.01  # of share, by which statements relax a bound
NEGLIGIBLE = 1e-6  # nats: what is worth less is worth no words
AMOUNTS = ((1e9, "billion"), (1e6, "million"), (1e3, "thousand"))


@dataclass(frozen=True)
class Balance:
    """Multiplier of the sum of shares, and a price for every row and the distance."""

    multiplier: float
    rows: Array  # (row,)
    distance: float


def balance(region: Region, shares: Array, slope: Array, *, near: bool) -> Balance:
    """Prices that balance the objective's slope; `near` where the distance is at its limit."""
    slack = region.limits - region.matrix @ shares
    touched = np.flatnonzero(slack <= TOUCHED)
    columns = [region.matrix[touched].T, np.ones((len(shares), 1)), -np.ones((len(shares), 1))]
    if near and region.reference is not None:
        columns.append(divergence_slope(shares, region.reference)[:, None])
    found, _ = nnls(np.hstack(columns), -slope)
    rows = np.zeros(len(region.rows))
    rows[touched] = found[: len(touched)]
    rest = found[len(touched) :]
    return Balance(float(rest[0] - rest[1]), rows, float(rest[2]) if len(rest) > 2 else 0.0)


def active(region: Region, shares: Array, prices: Balance) -> tuple[ActiveConstraint, ...]:
    """Touched constraints; of a bound that leaves no room, the side that has the price."""
    slack = region.limits - region.matrix @ shares
    found: dict[tuple[str, bool], ActiveConstraint] = {}
    for index in np.flatnonzero(slack <= TOUCHED):
        row, price = region.rows[index], float(prices.rows[index])
        key = (row.name, row.bound in OF_A_SHARE)
        if key not in found or price > found[key].price_nats:
            found[key] = ActiveConstraint(row.name, row.bound, row.value, price)
    kept = list(found.values())
    if prices.distance > 0:
        kept.append(ActiveConstraint("reference", "near", region.kl_nats, prices.distance))
    return tuple(kept)


def statements(
    touched: tuple[ActiveConstraint, ...], constraints: Constraints, *, at_most: bool = True
) -> list[Price]:
    """What each touched constraint that costs something is worth, the dearest first."""
    found = []
    for one in touched:
        # A share can't fall below 0, whatever the price of that.
        if one.price_nats <= 0 or (one.bound == "lower" and one.share <= 0):
            continue
        if one.bound in ("seen", "seen_lower"):
            found.append(_of_seen(one, constraints.seen, at_most))
        else:
            found += _of_epochs(one, constraints) if one.bound == "epochs" else [_of_bound(one)]
    told = [price for price in found if price.nats > NEGLIGIBLE]
    return [_stated(price, at_most) for price in sorted(told, key=lambda price: -price.nats)]


def of_repeats(
    surface: Discounted, shares: Array, slope: Array, budget_tokens: float, *, at_most: bool = True
) -> list[Price]:
    """What more tokens of each repeated domain are worth under the discount."""
    by_effective = slope / surface.slope(shares)
    worth = -by_effective * surface.by_unique(shares) / budget_tokens
    found = []
    for index, name in enumerate(surface.domains):
        if worth[index] > 0:
            tokens, words = _amount(float(surface.unique[index]) * budget_tokens)
            change = f"one more {words} tokens of {name}"
            found.append(Price(name, change, tokens, float(worth[index]) * tokens, ""))
    return [_stated(price, at_most) for price in sorted(found, key=lambda price: -price.nats)]


def _of_epochs(one: ActiveConstraint, constraints: Constraints) -> list[Price]:
    budget = constraints.budget_tokens or np.inf
    available = float((constraints.tokens_available or {})[one.domain])
    tokens, words = _amount(available)
    more = (constraints.max_epochs or 0.0) * tokens / budget
    return [
        Price(one.domain, f"one more {words} tokens of {one.domain}", tokens,
              one.price_nats * more, ""),
        Price(one.domain, f"one more epoch of {one.domain}", 1.0,
              one.price_nats * available / budget, ""),
    ]  # fmt: skip


def _of_seen(one: ActiveConstraint, seen: Seen, at_most: bool) -> Price:
    """What a share beyond those that runs saw would bring, were the law right there too."""
    less = one.bound == "seen_lower"
    amount = min(LOOSER, one.share) if less else LOOSER
    size = "one hundredth of share" if amount == LOOSER else f"{amount:.3g} of share"
    way, worth = "less" if less else "more", "at most" if at_most else "about"
    nats = one.price_nats * amount
    return Price(
        one.domain, f"{size} {way} of {one.domain} than now", amount, nats,
        f"{one.domain} is held at {one.share:.3g}, {_reach(one, seen)}; {size} {way} is worth "
        f"{worth} {nats:.3g} nats by the law: make runs with {way} of it to find out",
    )  # fmt: skip


def _reach(one: ActiveConstraint, seen: Seen) -> str:
    """A bound by what runs saw, in words."""
    least, most = seen.observed.get(one.domain, (0.0, 0.0))
    if most <= 0:
        return "as no run had any"
    end, word = (least, "least") if one.bound == "seen_lower" else (most, "most")
    factor = end / one.share if one.bound == "seen_lower" else one.share / end
    if abs(factor - 1) < 1e-6:
        return f"the {word} that any run saw"
    return f"{factor:.3g} times {'below' if word == 'least' else 'above'} what any run saw"


def _of_bound(one: ActiveConstraint) -> Price:
    if one.bound == "near":
        amount = min(LOOSER, one.share)
        change = f"{amount:.3g} nats more distance from the reference mixture"
    elif one.bound.endswith("lower"):
        amount = min(LOOSER, one.share) if one.share > 0 else LOOSER  # a sum's may be below 0
        change = f"a floor of {one.domain} lower by {amount:.3g}"
    else:
        amount = LOOSER
        change = f"an upper bound of {one.domain} higher by {amount:.3g}"
    return Price(one.domain, change, amount, one.price_nats * amount, "")


def _amount(available: float) -> tuple[float, str]:
    """A round number of tokens that is no more than there are."""
    return next((pair for pair in AMOUNTS if pair[0] <= available), AMOUNTS[-1])


def _stated(price: Price, at_most: bool) -> Price:
    if price.statement:
        return price
    worth = "at most" if at_most else "about"
    said = f"{price.change} is worth {worth} {price.nats:.3g} nats"
    return Price(price.domain, price.change, price.amount, price.nats, said)

"""When to stop making proxy runs: the choice is good enough, or the runs are used up."""

from dataclasses import dataclass
from math import isfinite

from mixlab.design.sequential import NextRuns
from mixlab.errors import InvalidBudget


@dataclass(frozen=True)
class Decision:
    """Whether to stop, how many of the proposed runs to make otherwise, and why."""

    stop: bool
    runs: int  # 0 where it stops
    reason: str


def decide(
    proposed: NextRuns, *, tolerance_nats: float, runs_made: int, run_budget: int | None = None
) -> Decision:
    """Stops where the expected regret is at most the tolerance, or the budget of runs is used up.

    Raises InvalidBudget for a tolerance or counts of runs that are none.
    """
    if not isfinite(tolerance_nats) or tolerance_nats <= 0:
        raise InvalidBudget(f"The tolerance is {tolerance_nats} nats; it must be above 0.")
    if runs_made < 0 or (run_budget is not None and run_budget < 0):
        raise InvalidBudget(
            f"Runs made are {runs_made} and their budget is {run_budget}; neither is below 0."
        )
    regret = proposed.expected_regret_nats
    found = f"the mixture is expected to lose {regret:.2g} nats to the best one"
    if regret <= tolerance_nats:
        return Decision(True, 0, f"Stop: {found}, within the tolerance of {tolerance_nats:.2g}.")
    left = None if run_budget is None else max(0, run_budget - runs_made)
    if left == 0:
        return Decision(
            True,
            0,
            f"Stop: {runs_made} runs are made and the budget was {run_budget}; {found}, more than "
            f"the tolerance of {tolerance_nats:.2g}. More runs would help.",
        )
    runs = len(proposed.mixtures) if left is None else min(left, len(proposed.mixtures))
    budget = "" if left is None else f"; {left} of {run_budget} runs are left"
    return Decision(
        False,
        runs,
        f"Go on: {found}, more than the tolerance of {tolerance_nats:.2g}{budget}. The "
        f"{len(proposed.mixtures)} proposed runs are foreseen to cut that to "
        f"{proposed.expected_regret_after_nats:.2g}.",
    )

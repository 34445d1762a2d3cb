"""Which runs to train: first ones that fill the space, next ones that tell the optimum, sizes."""

from mixlab.design.filling import filling_mixtures
from mixlab.design.initial import DEFAULT_FLOOR, design_mixtures, floored
from mixlab.design.plan import Plan, PlannedRun, Size, plan_runs
from mixlab.design.sequential import NextRuns, next_of, next_runs
from mixlab.design.stopping import Decision, decide

__all__ = [
    "DEFAULT_FLOOR",
    "Decision",
    "NextRuns",
    "Plan",
    "PlannedRun",
    "Size",
    "decide",
    "design_mixtures",
    "filling_mixtures",
    "floored",
    "next_of",
    "next_runs",
    "plan_runs",
]

"""bimix_saturating, with a Gaussian process on the log residuals that it leaves.

    L(r, s) = bimix_saturating(r, s) * exp(process(r, s))

Derivation: what a formula of few worths can't say is smooth in the mixture, so that runs near a
mixture tell its residual; far from all runs the process is 0 and the formula speaks alone. The
process is fitted by marginal likelihood (mixlab/fitting/process.py).

Limits: no longer convex, nor sure to fall with the step.
"""

from dataclasses import replace

from mixlab.laws.bimix_saturating import BIMIX_SATURATING

BIMIX_SATURATING_PROCESS = replace(
    BIMIX_SATURATING,
    name="bimix_saturating_process",
    formula=f"{BIMIX_SATURATING.formula}; times exp(process(r, s))",
    source="mixlab: bimix_saturating with a Gaussian process on its residuals",
    validity="one model size; as bimix_saturating, and better where runs are near",
    minimum_mixtures=12,  # fewer tell no length
    convex=False,
    falls_with_step=False,
    residual="process",
)

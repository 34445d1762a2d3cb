"""bimix_transfer_sized, with a Gaussian process on the log residuals that it leaves.

    L(r, N, D) = bimix_transfer_sized(r, N, D) * exp(process(r, N, D))

As bimix_saturating_process.py, over sizes. Limits: no longer convex, nor sure to fall with tokens.
"""

from dataclasses import replace

from mixlab.laws.bimix_transfer_sized import BIMIX_TRANSFER_SIZED

BIMIX_TRANSFER_SIZED_PROCESS = replace(
    BIMIX_TRANSFER_SIZED,
    name="bimix_transfer_sized_process",
    formula=f"{BIMIX_TRANSFER_SIZED.formula}; times exp(process(r, N, D))",
    source="mixlab: bimix_transfer_sized with a Gaussian process on its residuals",
    validity="as bimix_transfer_sized, and better where runs of near mixtures are",
    minimum_mixtures=12,
    convex=False,
    falls_with_step=False,
    residual="process",
)

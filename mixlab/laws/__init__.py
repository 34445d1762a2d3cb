"""Laws: formulas for a target's loss from the mixture, the step and the model's size."""

from difflib import get_close_matches

from mixlab.errors import UnknownLaw
from mixlab.laws.additive import ADDITIVE
from mixlab.laws.bimix import BIMIX
from mixlab.laws.bimix_pools import BIMIX_POOLS
from mixlab.laws.bimix_saturating import BIMIX_SATURATING
from mixlab.laws.bimix_saturating_process import BIMIX_SATURATING_PROCESS
from mixlab.laws.bimix_tilt import BIMIX_TILT
from mixlab.laws.bimix_tilt_sized import BIMIX_TILT_SIZED
from mixlab.laws.bimix_transfer import BIMIX_TRANSFER
from mixlab.laws.bimix_transfer_floor import BIMIX_TRANSFER_FLOOR
from mixlab.laws.bimix_transfer_sized import BIMIX_TRANSFER_SIZED
from mixlab.laws.bimix_transfer_sized_process import BIMIX_TRANSFER_SIZED_PROCESS
from mixlab.laws.chinchilla import CHINCHILLA
from mixlab.laws.data_constrained import DATA_CONSTRAINED
from mixlab.laws.exponential import EXPONENTIAL
from mixlab.laws.joint import JOINT
from mixlab.laws.law import Inputs, Law, Mask, Parameter
from mixlab.laws.lightgbm import LIGHTGBM
from mixlab.laws.log_linear import LOG_LINEAR

__all__ = [
    "AUTO",
    "BIMIX",
    "BIMIX_TRANSFER",
    "LAWS",
    "Inputs",
    "Law",
    "Mask",
    "Parameter",
    "law",
    "minimum_mixtures",
]

AUTO = "auto"  # in place of a law's name: for each target the law that predicts it best

LAWS = {
    found.name: found
    for found in (
        BIMIX,
        BIMIX_TRANSFER,
        BIMIX_TRANSFER_FLOOR,
        BIMIX_TILT,
        BIMIX_SATURATING,
        BIMIX_POOLS,
        BIMIX_SATURATING_PROCESS,
        BIMIX_TRANSFER_SIZED,
        BIMIX_TRANSFER_SIZED_PROCESS,
        BIMIX_TILT_SIZED,
        EXPONENTIAL,
        LOG_LINEAR,
        ADDITIVE,
        JOINT,
        CHINCHILLA,
        DATA_CONSTRAINED,
        LIGHTGBM,
    )
}


def law(name: str) -> Law:
    """The law of that name. Raises UnknownLaw, naming the nearest and all that there are."""
    if name in LAWS:
        return LAWS[name]
    near = get_close_matches(name, LAWS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UnknownLaw(f"There is no law {name!r}; there are {', '.join(LAWS)}.{hint}")


def minimum_mixtures(name: str) -> int:
    """How many different mixtures a law needs; with "auto", the least that any law needs.

    Raises UnknownLaw.
    """
    if name != AUTO:
        return law(name).minimum_mixtures
    return min(one.minimum_mixtures for one in LAWS.values() if one.needs_mixture)

"""Laws: formulas for a target's loss from the mixture and the step."""

from mixlab.errors import UnknownLaw
from mixlab.laws.bimix import BIMIX
from mixlab.laws.bimix_transfer import BIMIX_TRANSFER
from mixlab.laws.bimix_transfer_floor import BIMIX_TRANSFER_FLOOR
from mixlab.laws.law import Inputs, Law, Mask, Parameter

__all__ = [
    "BIMIX",
    "BIMIX_TRANSFER",
    "BIMIX_TRANSFER_FLOOR",
    "LAWS",
    "Inputs",
    "Law",
    "Mask",
    "Parameter",
    "law",
]

LAWS = {found.name: found for found in (BIMIX, BIMIX_TRANSFER, BIMIX_TRANSFER_FLOOR)}


def law(name: str) -> Law:
    """The law of that name. Raises UnknownLaw, naming those there are."""
    if name not in LAWS:
        raise UnknownLaw(f"There is no law {name!r}; there are {', '.join(LAWS)}.")
    return LAWS[name]

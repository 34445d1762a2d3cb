"""What can be inherited, and how: light, since the API checks requests with it.

Shapes are compared here, weights are cut in mixlab/inheriting.
"""

from typing import Literal, get_args

from mixlab.errors import InvalidRecipe
from mixlab.recipes.shape import Architecture

Importance = Literal["l1", "l2", "taylor", "masks"]
IMPORTANCES: tuple[Importance, ...] = get_args(Importance)
# What an heir can have less of than its donor, in words.
SIZES = {
    "layers": "layers",
    "width": "dimensions of width",
    "heads": "query heads",
    "kv_heads": "key/value heads",
    "ffn_width": "FFN neurons",
}


def check_heir(donor: Architecture, heir: Architecture) -> None:
    """Raise InvalidRecipe where a shape can't be cut out of the donor's, saying all reasons."""
    broken = [
        f"it has {getattr(heir, field)} {words} and the donor {getattr(donor, field)}"
        for field, words in SIZES.items()
        if getattr(heir, field) > getattr(donor, field)
    ]
    broken += list(_unlike(donor, heir))
    if broken:
        raise InvalidRecipe(
            f"The heir can't be cut out of the donor: {'; '.join(broken)}. Take a shape that is "
            "at most as large everywhere, or another donor."
        )


def _unlike(donor: Architecture, heir: Architecture) -> list[str]:
    """What must be alike and is not."""
    found = []
    if heir.vocabulary != donor.vocabulary:
        found.append(f"its vocabulary is {heir.vocabulary} and the donor's {donor.vocabulary}")
    if heir.head_width != donor.head_width:
        found.append(
            f"its heads are {heir.head_width} wide and the donor's {donor.head_width}, but a head "
            f"stays whole: width / heads must be {donor.head_width}"
        )
    per_group, donors = heir.heads // heir.kv_heads, donor.heads // donor.kv_heads
    if per_group > donors:
        found.append(
            f"{per_group} of its query heads share a key/value head, but {donors} of the donor's: "
            f"it needs at least {-(-heir.heads // donors)} key/value heads"
        )
    if heir.rope_theta != donor.rope_theta:
        found.append(f"its rope_theta is {heir.rope_theta:g}, the donor's {donor.rope_theta:g}")
    if heir.tied_head and not donor.tied_head:
        found.append("its head is tied, but the donor has two tables: set tied_head to False")
    if heir.layers < min(2, donor.layers):
        found.append("it has 1 layer, but the donor's first and last stay: it needs at least 2")
    return found

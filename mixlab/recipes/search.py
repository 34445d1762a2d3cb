"""Shapes of a given number of parameters, the recommended one first.

For every depth and width the FFN's width is solved from the budget, in steps of `ffn_multiple`;
a shape counts if its parameters are within the tolerance and its FFN expansion in the range.
Shapes are ranked by how far they are from the recommended depth and expansion,

    sqrt(ln(layers / 20)^2 + ln(expansion / 2.77)^2),

and of equal ones by how near they are to the budget. Depth is the stronger of the two: over 30
random shapes of about 1B parameters the rank correlation with the score was +0.528 for depth and
-0.528 for width, and expansion had no clear relation; "about 20 layers and 2.77" is what the
paper recommends, deeper ones being slower. Logarithms, so that half and double are equally far.

Source: PanGu-pi Pro, arXiv 2402.02791 (figures by notes on it); the distance is ours.
Limits: the finding is of about 1B parameters and 5B tokens; for other sizes it is a guess.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mixlab.errors import InvalidRecipe
from mixlab.recipes.shape import Architecture, Flops

LAYERS, EXPANSION = 20, 2.77
DEPTHS = (2, 40)
WIDTHS = (32, 8192)
EXPANSIONS = (1.0, 4.0)
TOLERANCE = 0.01
# Heads of published models of that size: (parameters from which on, width of a head); ours.
HEAD_WIDTHS = ((500e6, 128), (10e6, 64), (0, 32))

MOST_FRAMES = 250_000  # some ten seconds


@dataclass(frozen=True)
class Candidate:
    """A shape within the budget."""

    architecture: Architecture

    @property
    def expansion(self) -> float:
        """The FFN's width in widths."""
        return self.architecture.ffn_width / self.architecture.width

    @property
    def tables_share(self) -> float:
        """Share of the parameters in embedding and head; a rule of thumb keeps it below 20 %."""
        shape = self.architecture
        tables = shape.head_parameters * (1 if shape.tied_head else 2)
        return tables / shape.parameters

    @property
    def distance(self) -> float:
        """How far it is from the recommended depth and expansion, 0 or more."""
        return math.hypot(
            math.log(self.architecture.layers / LAYERS), math.log(self.expansion / EXPANSION)
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with FLOPs per token by the name of their formula."""
        shape = self.architecture
        return {
            "layers": shape.layers,
            "width": shape.width,
            "heads": shape.heads,
            "kv_heads": shape.kv_heads,
            "ffn_width": shape.ffn_width,
            "expansion": self.expansion,
            "parameters": shape.parameters,
            "tables_share": self.tables_share,
            "flops_per_token": {formula.value: shape.flops_per_token(formula) for formula in Flops},
            "distance": self.distance,
        }


def search_shapes(
    parameters: float,
    vocabulary: int,
    *,
    depths: tuple[int, int] = DEPTHS,
    widths: tuple[int, int] = WIDTHS,
    expansions: tuple[float, float] = EXPANSIONS,
    tolerance: float = TOLERANCE,
    head_width: int | None = None,
    queries_per_kv: Sequence[int] = (1,),
    ffn_multiple: int = 64,
    context: int = 2048,
    tied_head: bool = False,
) -> tuple[Candidate, ...]:
    """All shapes whose parameters, all counted, are the budget within a share `tolerance`.

    Ranges hold both ends. Widths are whole heads of `head_width`; where none is given, 128 from
    500M parameters on, 64 from 10M, else 32. Each of `queries_per_kv` that divides the heads gives
    shapes of its own: 1 is plain attention, 4 lets four query heads share keys and values.

    Raises InvalidRecipe for values that are none, ranges of too many shapes, and where no shape
    meets the budget, saying what came nearest.
    """
    _check(parameters, vocabulary, (depths, widths, expansions), tolerance)
    own = head_width or next(width for least, width in HEAD_WIDTHS if parameters >= least)
    if ffn_multiple < 1 or any(queries < 1 for queries in queries_per_kv):
        raise InvalidRecipe(
            f"ffn_multiple ({ffn_multiple}) and queries_per_kv ({list(queries_per_kv)}) must be "
            "at least 1."
        )
    frames = len(_heads(widths, own)) * (depths[1] - depths[0] + 1) * len(set(queries_per_kv))
    if frames > MOST_FRAMES:
        raise InvalidRecipe(
            f"The ranges hold {frames:,} depths and widths, too many to look through (at most "
            f"{MOST_FRAMES:,}); narrow them."
        )
    # Of one layer, one head and one neuron; it refuses a head of odd width.
    least = Architecture(
        layers=1, width=own, heads=1, kv_heads=1, ffn_width=1,
        vocabulary=vocabulary, context=context, tied_head=tied_head,
    )  # fmt: skip
    shapes = [
        shape
        for frame in _frames(least, depths, widths, sorted(set(queries_per_kv)))
        for shape in _filled(frame, parameters, ffn_multiple)
        if expansions[0] <= shape.ffn_width / shape.width <= expansions[1]
    ]
    near = [one for one in shapes if abs(one.parameters / parameters - 1) <= tolerance]
    if not near:
        raise InvalidRecipe(_nothing(parameters, vocabulary, shapes, tolerance))
    return tuple(sorted(map(Candidate, near), key=lambda one: _order(one, parameters)))


def _order(one: Candidate, parameters: float) -> tuple[float, float, int]:
    shape = one.architecture
    return one.distance, abs(shape.parameters - parameters), shape.kv_heads


def _frames(
    least: Architecture,
    depths: tuple[int, int],
    widths: tuple[int, int],
    queries_per_kv: Sequence[int],
) -> Iterator[Architecture]:
    """Every depth, width and number of key/value heads within the ranges, with one FFN neuron."""
    own = least.width
    for layers in range(depths[0], depths[1] + 1):
        for heads in _heads(widths, own):
            for queries in queries_per_kv:
                if heads % queries == 0:
                    yield replace(
                        least, layers=layers, width=heads * own, heads=heads,
                        kv_heads=heads // queries,
                    )  # fmt: skip


def _heads(widths: tuple[int, int], own: int) -> range:
    """The numbers of heads, each `own` wide, whose widths are in the range."""
    return range(max(1, -(-widths[0] // own)), widths[1] // own + 1)


def _filled(frame: Architecture, parameters: float, multiple: int) -> Iterator[Architecture]:
    """The frame with the FFN width that comes nearest to the budget; nothing where none fits."""
    per_neuron = 3 * frame.width * frame.layers
    rest = frame.parameters - per_neuron  # the frame has one neuron a layer
    ffn = round((parameters - rest) / per_neuron / multiple) * multiple
    if ffn >= 1:
        yield replace(frame, ffn_width=ffn)


def _check(
    parameters: float,
    vocabulary: int,
    ranges: tuple[tuple[float, float], ...],
    tolerance: float,
) -> None:
    if not (math.isfinite(parameters) and parameters >= 1):
        raise InvalidRecipe(f"A model has at least 1 parameter, not {parameters}.")
    if vocabulary < 1:
        raise InvalidRecipe(f"A vocabulary has at least 1 token, not {vocabulary}.")
    if not 0 <= tolerance < 1:
        raise InvalidRecipe(f"The tolerance is a share from 0 to below 1, not {tolerance}.")
    for name, (low, high) in zip(("depths", "widths", "expansions"), ranges, strict=True):
        if not 0 < low <= high:
            raise InvalidRecipe(f"The range of {name} must rise from above 0, not {low}-{high}.")


def _nothing(
    parameters: float, vocabulary: int, shapes: Sequence[Architecture], tolerance: float
) -> str:
    """Why there is no shape, and what comes nearest."""
    said = f"No shape in these ranges has {parameters:,.0f} parameters within {tolerance:.1%}"
    if not shapes:
        return (
            f"{said} with {vocabulary:,} tokens: embedding and head, or attention, take more than "
            "the budget, or leave too much for the FFN; widen the ranges, or change the budget or "
            "the vocabulary."
        )
    best = min(shapes, key=lambda one: abs(one.parameters - parameters))
    return (
        f"{said}; the nearest is {best.layers} x {best.width} with FFN {best.ffn_width} and "
        f"{best.parameters:,}. Raise the tolerance, or widen the ranges."
    )

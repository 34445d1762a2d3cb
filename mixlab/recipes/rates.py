"""How a learning rate goes with the batch: lr = lr_0 (bs / bs_0)^r.

r = 0.5 is the recommended exponent of those compared, 0.25 to 1 (0.5 is the square-root rule of
Adam-like optimisers, 1 the linear rule of SGD), and batches are to stay below 4M tokens. The
paper's own pair is lr_0 = 1e-4 at bs_0 = 1M tokens; its final training's 2e-4 at 2M tokens is the
rule with r = 1.

Source: PanGu-pi Pro, arXiv 2402.02791; its range is known from notes on the paper, and bs_0 and
lr_0 from memory. Limits: says nothing of other sizes of model, of other schedules or lengths.
"""

from math import isfinite

from mixlab.errors import InvalidRecipe

EXPONENTS = (0.25, 1.0)
RECOMMENDED_EXPONENT = 0.5
MOST_BATCH_TOKENS = 4_000_000


def rate_for_batch(
    learning_rate: float,
    *,
    base_tokens: float,
    tokens: float,
    exponent: float = RECOMMENDED_EXPONENT,
) -> float:
    """The rate for batches of `tokens`, where `learning_rate` is right for `base_tokens`.

    Raises InvalidRecipe outside the range in which the rule was tried: an exponent from 0.25 to 1,
    and both batches from 1 to below 4M tokens.
    """
    if not (isfinite(learning_rate) and learning_rate > 0):
        raise InvalidRecipe(f"A learning rate is a finite number above 0, not {learning_rate}.")
    low, high = EXPONENTS
    if not low <= exponent <= high:
        raise InvalidRecipe(
            f"The exponent of the batch's rule was tried from {low:g} to {high:g}, and is "
            f"{exponent:g}; take {RECOMMENDED_EXPONENT:g}."
        )
    for batch in (base_tokens, tokens):
        if not 1 <= batch < MOST_BATCH_TOKENS:
            raise InvalidRecipe(
                f"The batch's rule holds for 1 to below {MOST_BATCH_TOKENS:,} tokens, and a batch "
                f"has {batch:,.0f}: its source keeps batches below that; take smaller ones, or "
                "tune the rate by runs of your own."
            )
    return float(learning_rate * (tokens / base_tokens) ** exponent)

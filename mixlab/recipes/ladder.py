"""A ladder of proxies from 0.35M to 57M block parameters, and RegMix's proxy for comparison.

All rungs have one vocabulary, context, head width (32), ratio of heads to key/value heads (4)
and of FFN to width (2.75, TinyLlama's), so that losses and rates can be compared over sizes:

    rung          layers x width   blocks    + head    head's share of FLOPs
    proxy_300k         2 x 128     0.35M     0.62M     35 %
    proxy_1m           2 x 256     1.4M      1.9M      24 %
    proxy_5m           3 x 384     4.8M      5.5M      13 %
    proxy_15m          5 x 512     14M       15M        6 %
    proxy_60m          9 x 768     57M       59M        3 %

The vocabulary of 2,048 is why: with its 50,432 tokens the head of RegMix's "1M" proxy takes
79 % of the arithmetic (85 % where attention counts by its causal half).

Tokens: 20 for each parameter that a token is multiplied by (blocks and head), Chinchilla's
ratio (arXiv 2203.15556; 17.9 to 25.9 by the refit of 2404.10102). Batches double from rung to
rung, the 0.6th power of the tokens: faster than the 0.38th that arXiv 2505.13738 finds best, so
that a device has enough to do. Rates: proxy_tiny's 4.5e-3 was found at width 64 (EXPERIMENTS.md)
and goes to every width by maximal update (optimiser.py; benchmarks/results/transfer.md). They are
constant after the warm-up (4 % of the run, as RegMix's 1B runs have it), so that each evaluation
is a run of that length, and `Recipe.decayed` gives decayed end points.

Limits: over depth, batch and length the rate is only assumed to hold; no rung has been trained
to its end.
"""

from mixlab.recipes.definition import Recipe
from mixlab.recipes.shape import Architecture

TOKENS_PER_PARAMETER = 20
VOCABULARY, CONTEXT, HEAD_WIDTH = 2048, 256, 32
SMALLEST_BATCH = 32  # sequences: 8,192 tokens
EVALUATION_TOKENS = 16_384  # of the smallest rung; like the batch, twice as many on each next
BASE_WIDTH, BASE_RATE = 64, 4.5e-3  # proxy_tiny's
EVALUATED_AT = (0.3, 0.45, 0.6, 0.75, 0.9, 1.0)  # of the run


def proxy_300k() -> Recipe:
    """The ladder's first rung: 2 x 128, 0.35M block parameters on 12M tokens.

    Source: mixlab/recipes/ladder.py states the rule of each number.
    """
    return _rung("proxy_300k", 0, layers=2, width=128)


def proxy_1m() -> Recipe:
    """The ladder's second rung: 2 x 256, 1.4M block parameters on 39M tokens.

    Source: mixlab/recipes/ladder.py states the rule of each number.
    """
    return _rung("proxy_1m", 1, layers=2, width=256)


def proxy_5m() -> Recipe:
    """The ladder's third rung: 3 x 384, 4.8M block parameters on 111M tokens.

    Source: mixlab/recipes/ladder.py states the rule of each number.
    """
    return _rung("proxy_5m", 2, layers=3, width=384)


def proxy_15m() -> Recipe:
    """The ladder's fourth rung: 5 x 512, 14M block parameters on 303M tokens.

    Source: mixlab/recipes/ladder.py states the rule of each number.
    """
    return _rung("proxy_15m", 3, layers=5, width=512)


def proxy_60m() -> Recipe:
    """The ladder's last rung: 9 x 768, 57M block parameters on 1.2B tokens.

    Source: mixlab/recipes/ladder.py states the rule of each number.
    """
    return _rung("proxy_60m", 4, layers=9, width=768)


def _rung(name: str, number: int, *, layers: int, width: int) -> Recipe:
    heads = width // HEAD_WIDTH
    shape = Architecture(
        layers=layers, width=width, heads=heads, kv_heads=heads // 4, ffn_width=width * 11 // 4,
        vocabulary=VOCABULARY, context=CONTEXT, tied_head=False,
    )  # fmt: skip
    sequences = SMALLEST_BATCH << number
    tokens = TOKENS_PER_PARAMETER * shape.parameters_without_embedding
    steps = round(tokens / (sequences * CONTEXT))
    return Recipe(
        name=name,
        architecture=shape,
        steps=steps,
        batch_sequences=sequences,
        learning_rate=BASE_RATE,
        base_width=BASE_WIDTH,
        warmup_steps=steps // 25,
        evaluation_steps=tuple(round(part * steps) for part in EVALUATED_AT),
        evaluation_tokens=EVALUATION_TOKENS << number,
    )


def regmix_1m() -> Recipe:
    """RegMix's "1M" proxy as published: 1.3M parameters in its blocks, 27M in all, 1B tokens.

    A constant rate, "for the small model", as its configurations say; 1001 steps there, since
    the last is not shown.
    Source: sail-sg/regmix, `tinyllama_1M` and `model_training/config_proxy_training.py`.
    """
    return Recipe(
        name="regmix_1m",
        architecture=Architecture(
            layers=2, width=256, heads=8, kv_heads=8, ffn_width=512,
            vocabulary=50_432, context=2048, tied_head=False,
        ),
        steps=1000,
        batch_sequences=512,  # global_batch_size
        learning_rate=4e-4,  # and min_lr
        warmup_steps=100,
        evaluation_steps=tuple(range(100, 1001, 100)),  # eval_step_interval
        evaluation_tokens=50 * 4 * 2048,  # eval_iters batches of micro_batch_size sequences
    )  # fmt: skip

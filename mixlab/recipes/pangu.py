"""PanGu-pi Pro's recipes: two published shapes and the configuration that was released.

Sources: arXiv 2402.02791; YuchuanTian/RethinkTinyLM, `fig/configure.png` (width, depth and
vocabulary of 1B Pro and 1.5B Pro), `configs/LLM1B.py` (the released one).

What the sources leave open or contradict:
  * FFN expansion 2.77 is the recommended one, and makes 1B Pro 1.002B parameters; with it 1.5B
    Pro is 1.333B, so that its own is another, or it has parts that are not told.
  * The released configuration is no shape of the paper: 20 layers instead of 21, and 0.943B.
  * Its code names the model LLAMA2: the series activation and augmented shortcuts of PanGu-pi
    (arXiv 2312.17276) are not in it, nor here.
  * Final training is told as a rate of 2e-4 at batches of 2M tokens, 1.6T tokens in all. That is
    the paper's rule (rates.py) with exponent 1, though 0.5 is what it recommends.
  * Initialisation is one constant standard deviation there; here it is the decoder's own.
"""

from mixlab.recipes.definition import Recipe
from mixlab.recipes.shape import Architecture

VOCABULARY = 48_000  # the most frequent of 100,883 pieces
EXPANSION = 2.77  # of the FFN, in widths
HEAD_WIDTH = 128  # 14 heads of width 1792, `configs/LLM1B.py`
TOKENS = 1_600_000_000_000
BATCH_SEQUENCES = 1024  # 2M tokens of context 2048
WARMUP_SHARE = 0.03  # `warmup_ratio`
EVALUATION_TOKENS = 819_200  # of each domain; ours


def pangu_pi_1b_pro() -> Recipe:
    """PanGu-pi-1B Pro: 21 layers of width 1792, 1,002,270,976 parameters, 1.6T tokens.

    FFN width 4964 is 2.77 x 1792 = 4963.84. 14 heads as released; warm-up and the final rate, a
    tenth of the peak, are the released configuration's too.
    Source: arXiv 2402.02791; YuchuanTian/RethinkTinyLM.
    """
    return _recipe(
        "pangu_pi_1b_pro", layers=21, width=1792, ffn_width=round(EXPANSION * 1792),
        steps=round(TOKENS / (BATCH_SEQUENCES * 2048)), batch_sequences=BATCH_SEQUENCES, rate=2e-4,
    )  # fmt: skip


def pangu_pi_1b_released() -> Recipe:
    """The released configuration of 1B Pro: 20 layers, FFN 8/3 widths, 942,844,672 parameters.

    FFN width 4779 is 8/3 x 1792 = 4778.67; its framework may round further up. 50,000 updates of
    2 x 15 sequences on each GPU; the number of GPUs is not told, and taken as 32, so that a batch
    has about the 2M tokens of the paper. It is no shape of the paper, which has 21 layers.
    Source: YuchuanTian/RethinkTinyLM, `configs/LLM1B.py`.
    """
    return _recipe(
        "pangu_pi_1b_released", layers=20, width=1792, ffn_width=round(8 / 3 * 1792),
        steps=50_000, batch_sequences=2 * 15 * 32, rate=1e-4,
    )  # fmt: skip


def pangu_pi_1_5b_pro() -> Recipe:
    """PanGu-pi-1.5B Pro as far as it is told: 22 layers of width 2048, 1,332,606,976 parameters.

    With the recommended FFN expansion of 2.77, which makes it 1.33B and not 1.5B: its own
    expansion is not published. Trained like 1B Pro, for want of other figures.
    Source: arXiv 2402.02791; YuchuanTian/RethinkTinyLM.
    """
    return _recipe(
        "pangu_pi_1_5b_pro", layers=22, width=2048, ffn_width=round(EXPANSION * 2048),
        steps=round(TOKENS / (BATCH_SEQUENCES * 2048)), batch_sequences=BATCH_SEQUENCES, rate=2e-4,
    )  # fmt: skip


def _recipe(
    name: str,
    *,
    layers: int,
    width: int,
    ffn_width: int,
    steps: int,
    batch_sequences: int,
    rate: float,
) -> Recipe:
    heads = width // HEAD_WIDTH
    return Recipe(
        name=name,
        architecture=Architecture(
            layers=layers, width=width, heads=heads, kv_heads=heads, ffn_width=ffn_width,
            vocabulary=VOCABULARY, context=2048, tied_head=False, norm_epsilon=1e-5,
        ),
        steps=steps,
        batch_sequences=batch_sequences,
        learning_rate=rate,
        final_learning_rate=rate / 10,  # lr 1e-4, eta_min 1e-5
        schedule="cosine",
        warmup_steps=round(WARMUP_SHARE * steps),
        betas=(0.9, 0.95),
        weight_decay=0.1,
        gradient_clip=1.0,
        evaluation_steps=tuple(range(5000, steps + 1, 5000)),
        evaluation_tokens=EVALUATION_TOKENS,
    )  # fmt: skip

"""TinyLlama's recipes: the 1.1B run on 3T tokens, its small sibling, and v1.1 with its stages.

Sources: arXiv 2401.02385; jzhang38/TinyLlama at bf12224, `lit_gpt/config.py` (shapes) and
`pretrain/tinyllama.py` (all else); the model card of TinyLlama_v1.1.
"""

from dataclasses import replace

from mixlab.errors import InvalidMixture
from mixlab.mixture import Mixture
from mixlab.recipes.definition import Recipe
from mixlab.recipes.shape import Architecture
from mixlab.schedules import MixtureSchedule, Stage

# The continual stage of v1.1 by variant, in the card's "data sampling" table.
VARIANTS = {
    "plain": {"slimpajama": 1.0},
    "math_code": {"slimpajama": 0.75, "starcoder": 0.15, "proof_pile": 0.10},
    "chinese": {"slimpajama": 0.50, "skypile": 0.50},
}
BASIC_TOKENS = 1_500_000_000_000  # SlimPajama alone
RAMP_TOKENS = 6_000_000_000  # "at the beginning ~6B tokens in this stage"
COOLDOWN_FROM_TOKENS = 1_850_000_000_000
V11_TOKENS = 2_000_000_000_000
# The card says "approximately 1.8M" tokens; 880 sequences are 1,802,240, and 16 a GPU divide it.
V11_SEQUENCES = 880
COOLDOWN_FACTOR = 4  # from 1.8M to 7.2M tokens


def tinyllama_1b() -> Recipe:
    """TinyLlama, 1.1B parameters on 3T tokens.

    Source: arXiv 2401.02385; jzhang38/TinyLlama, `lit_gpt/config.py` and `pretrain/tinyllama.py`.
    """
    return Recipe(
        name="tinyllama_1b",
        # `tiny_LLaMA_1b`: padding_multiple 64 leaves 32,000 as it is; RMSNorm epsilon 1e-5.
        architecture=Architecture(
            layers=22, width=2048, heads=32, kv_heads=4, ffn_width=5632,
            vocabulary=32_000, context=2048, tied_head=False, norm_epsilon=1e-5,
        ),
        steps=715_256 * 2,  # max_step
        # global_batch_size = 512 is a node's, and the README trains on two: 2,097,152 tokens.
        batch_sequences=2 * 512,
        learning_rate=4e-4,
        final_learning_rate=4e-5,  # min_lr; equal to the peak in the first weeks (issue 27)
        schedule="cosine",  # decay_lr = True, over max_step
        warmup_steps=2000,
        betas=(0.9, 0.95),
        weight_decay=1e-1,  # there of all parameters, here not of norms
        gradient_clip=1.0,
        evaluation_steps=tuple(range(5000, 715_256 * 2 + 1, 5000)),  # eval_step_interval
        evaluation_tokens=100 * 8 * 2048,  # eval_iters batches of micro_batch_size sequences
    )  # fmt: skip


def tinyllama_120m() -> Recipe:
    """TinyLlama's small sibling, with the same script on one node; its length is ours.

    20 tokens a parameter, since the repository names no run of this shape.
    Source: jzhang38/TinyLlama, `tiny_LLaMA_120M`; arXiv 2203.15556 (20 tokens a parameter).
    """
    shape = Architecture(
        layers=12, width=768, heads=12, kv_heads=1, ffn_width=2048,
        vocabulary=32_000, context=2048, tied_head=False, norm_epsilon=1e-5,
    )  # fmt: skip
    sequences = 512  # global_batch_size of one node
    steps = round(20 * shape.parameters / (sequences * shape.context))
    return replace(
        tinyllama_1b(),
        name="tinyllama_120m",
        architecture=shape,
        batch_sequences=sequences,
        steps=steps,
        warmup_steps=steps // 25,  # 2000 would be most of so short a run
        evaluation_steps=tuple(range(250, steps + 1, 250)),
    )


def tinyllama_v1_1() -> Recipe:
    """TinyLlama v1.1 on 2T tokens; its cool-down raises the batch and leaves the cosine.

    Train it on `tinyllama_v1_1_mixture(variant)`. The card names no rates, so they are v1's, and
    the cosine ends with the last update.
    Source: model card of TinyLlama_v1.1; arXiv 2401.02385.
    """
    first = tinyllama_1b()
    context = first.architecture.context
    before = round(COOLDOWN_FROM_TOKENS / (V11_SEQUENCES * context))
    larger = COOLDOWN_FACTOR * V11_SEQUENCES
    after = round((V11_TOKENS - COOLDOWN_FROM_TOKENS) / (larger * context))
    return replace(
        first,
        name="tinyllama_v1_1",
        steps=before + after,
        batch_sequences=V11_SEQUENCES,
        batch_stages=((before + 1, larger),),
        evaluation_steps=tuple(range(5000, before + after + 1, 5000)),
    )


def tinyllama_v1_1_mixture(variant: str = "math_code") -> MixtureSchedule:
    """What `tinyllama_v1_1` was trained on: "plain", "math_code" or "chinese".

    SlimPajama alone for 1.5T tokens, then the variant's shares, the new domains rising in a
    line over the first 6B tokens. Raises InvalidMixture for another name.
    Source: model card of TinyLlama_v1.1.
    """
    if variant not in VARIANTS:
        raise InvalidMixture(
            f"TinyLlama v1.1 has no variant {variant!r}; there are {', '.join(VARIANTS)}."
        )
    basic = Stage(Mixture(VARIANTS["plain"]), tokens=BASIC_TOKENS)
    if variant == "plain":
        return MixtureSchedule.of(basic.mixture)
    return MixtureSchedule((basic, Stage(Mixture(VARIANTS[variant]), ramp_tokens=RAMP_TOKENS)))

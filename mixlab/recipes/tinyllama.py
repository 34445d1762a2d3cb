"""TinyLlama's recipes (arXiv 2401.02385, jzhang38/TinyLlama)."""

from mixlab.recipes.definition import Recipe
from mixlab.recipes.shape import Architecture


def tinyllama_1b() -> Recipe:
    """TinyLlama's 1.1B shape, exactly 1,100,048,384 parameters.

    Source: arXiv 2401.02385 and jzhang38/TinyLlama, `lit_gpt/config.py` and
    `pretrain/tinyllama.py`: 1,430,512 steps of 1024 x 2048 tokens are 3T tokens.
    """
    steps = 1_430_512
    return Recipe(
        name="tinyllama_1b",
        architecture=Architecture(
            layers=22, width=2048, heads=32, kv_heads=4, ffn_width=5632,
            vocabulary=32_000, context=2048, tied_head=False,
        ),
        steps=steps,
        batch_sequences=1024,
        learning_rate=4e-4,
        final_learning_rate=4e-5,
        schedule="cosine",
        warmup_steps=2000,
        evaluation_steps=tuple(range(5000, steps + 1, 5000)),
        evaluation_tokens=1_048_576,
    )  # fmt: skip

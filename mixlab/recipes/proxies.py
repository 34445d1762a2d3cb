"""Proxies: small recipes that stand in for a full-scale run."""

from mixlab.recipes.definition import Recipe
from mixlab.recipes.shape import Architecture


def proxy_smoke() -> Recipe:
    """Seconds for a whole fit: to see that the road holds, not to decide anything."""
    return Recipe(
        name="proxy_smoke",
        architecture=Architecture(
            layers=1, width=32, heads=2, kv_heads=1, ffn_width=64,
            vocabulary=512, context=64, tied_head=False,
        ),
        steps=60,
        batch_sequences=8,
        learning_rate=1e-2,
        warmup_steps=5,
        evaluation_steps=(20, 30, 45, 60),
        evaluation_tokens=2048,
        compiled=False,
    )  # fmt: skip


def proxy_tiny() -> Recipe:
    """0.35M parameters for two CPU cores: seconds a run; the demo's proxy.

    A 2,048-token vocabulary, so that the head doesn't eat the budget; a constant rate after the
    warm-up, so that each evaluation is a valid run of that many steps. An untied head and 2,048
    tokens a step reach 4.71 nats in 0.5M tokens, where a tied one and 4,096 reach 5.56.
    Evaluated past the plateau of a model that knows only frequencies.
    """
    return Recipe(
        name="proxy_tiny",
        architecture=Architecture(
            layers=2, width=64, heads=2, kv_heads=1, ffn_width=160,
            vocabulary=2048, context=128, tied_head=False,
        ),
        steps=250,
        batch_sequences=16,
        learning_rate=4.5e-3,
        warmup_steps=20,
        evaluation_steps=(80, 110, 140, 175, 210, 250),
        evaluation_tokens=8192,
        compiled=False,
    )  # fmt: skip


def target_small() -> Recipe:
    """The demo's full-scale stand-in: 1.1M parameters, 3.0x the proxy's, on 3.2x its tokens.

    As many tokens a step as the proxy has, so that a law's step means the same for both.
    """
    return Recipe(
        name="target_small",
        architecture=Architecture(
            layers=3, width=128, heads=4, kv_heads=2, ffn_width=336,
            vocabulary=2048, context=128, tied_head=False,
        ),
        steps=800,
        batch_sequences=16,
        learning_rate=3e-3,
        warmup_steps=40,
        evaluation_steps=(400, 800),
        evaluation_tokens=16_384,
        compiled=False,
    )  # fmt: skip

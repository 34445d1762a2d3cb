"""Recipes: the whole configuration of a training run, as functions.

A proxy run and the full-scale run differ in their recipe alone. Counts of
parameters are exact for the decoder in `mixlab/training/decoder.py`:

    embedding V*d, per block (h + 2*kv)*(d/h)*d + d*d + 3*d*f + 2*d,
    final norm d, and a head of V*d unless it is tied to the embedding.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from mixlab.errors import InvalidRecipe, UnknownRecipe

Schedule = Literal["constant", "cosine", "wsd"]
Precision = Literal["auto", "float32", "bfloat16"]
Anomaly = Literal["fail", "skip", "roll_back"]


@dataclass(frozen=True)
class Architecture:
    """The shape of a Llama-style decoder: RMSNorm, RoPE, SwiGLU, grouped-query attention."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    ffn_width: int
    vocabulary: int
    context: int
    tied_head: bool
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise InvalidRecipe(
                f"width {self.width} over {self.heads} heads must give an even whole head size."
            )
        if self.heads % self.kv_heads:
            raise InvalidRecipe(
                f"{self.heads} heads can't share {self.kv_heads} key/value heads evenly."
            )

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    @property
    def block_parameters(self) -> int:
        """Parameters of all blocks, without embedding, head and final norm."""
        attention = (self.heads + 2 * self.kv_heads) * self.head_width * self.width
        output = self.width * self.width
        return self.layers * (attention + output + 3 * self.width * self.ffn_width + 2 * self.width)

    @property
    def parameters(self) -> int:
        """Every parameter: blocks, embedding, final norm, and the head unless it is tied."""
        tables = self.vocabulary * self.width * (1 if self.tied_head else 2)
        return self.block_parameters + tables + self.width


@dataclass(frozen=True)
class Recipe:
    """A training run without its mixture, corpus and seed."""

    name: str
    architecture: Architecture
    steps: int
    batch_sequences: int
    learning_rate: float
    warmup_steps: int
    evaluation_steps: tuple[int, ...]
    evaluation_tokens: int  # per domain, at each evaluation
    schedule: Schedule = "constant"
    final_learning_rate: float | None = None  # of "cosine" and "wsd"; None is 0
    decay_steps: int = 0  # of "wsd": the last updates, in which the rate falls linearly
    base_width: int | None = None  # learning_rate was tuned at this width: maximal update
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    gradient_clip: float = 1.0
    # (update from which on, sequences) of later batch sizes, rising; updates counted from 1.
    batch_stages: tuple[tuple[int, int], ...] = ()
    precision: Precision = "auto"  # of matrix products; weights are float32 in each case
    moments: Literal["float32", "bfloat16"] = "float32"  # how AdamW's state is kept
    activation_checkpointing: bool = False  # a third more arithmetic for much less memory
    on_anomaly: Anomaly = "fail"  # a loss or gradient that is no number, or a spike
    spike_nats: float | None = None  # a batch's loss so far above the recent ones; None: no limit
    compiled: bool = True

    def __post_init__(self) -> None:
        steps = self.evaluation_steps
        if not steps or list(steps) != sorted(set(steps)) or steps[0] < 1 or steps[-1] > self.steps:
            raise InvalidRecipe(
                f"evaluation_steps must rise from at least 1 to at most {self.steps}, not {steps}."
            )
        if self.steps < 1 or self.batch_sequences < 1:
            raise InvalidRecipe(f"{self.name}: steps and batch_sequences must be at least 1.")

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one weight update sees."""
        return self.batch_sequences * self.architecture.context

    @property
    def tokens(self) -> int:
        """Tokens of the whole run."""
        return self.steps * self.tokens_per_step

    def lasting(self, steps: int) -> "Recipe":
        """The same recipe for another number of steps, evaluated at its four quarters."""
        if steps < 1:
            raise InvalidRecipe(f"A run needs at least 1 step, not {steps}.")
        quarters = sorted({max(1, steps * quarter // 4) for quarter in (1, 2, 3, 4)})
        return replace(self, steps=steps, evaluation_steps=tuple(quarters))

    def for_vocabulary(self, vocabulary: int) -> "Recipe":
        """The recipe with room for every token: widened where the tokenizer has more."""
        if vocabulary <= self.architecture.vocabulary:
            return self
        return replace(self, architecture=replace(self.architecture, vocabulary=vocabulary))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form that `from_dict` reads back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Recipe":
        """What `to_dict` wrote."""
        values = dict(data)
        values["architecture"] = Architecture(**values["architecture"])
        values["evaluation_steps"] = tuple(values["evaluation_steps"])
        values["betas"] = tuple(values["betas"])
        values["batch_stages"] = tuple(tuple(s) for s in values.get("batch_stages", ()))
        return cls(**values)


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


RECIPES: dict[str, Callable[[], Recipe]] = {
    "proxy_smoke": proxy_smoke,
    "proxy_tiny": proxy_tiny,
    "target_small": target_small,
    "tinyllama_1b": tinyllama_1b,
}


def recipe(name: str) -> Recipe:
    """The recipe of that name. Raises UnknownRecipe, naming those there are."""
    if name not in RECIPES:
        raise UnknownRecipe(f"There is no recipe {name!r}; there are {', '.join(RECIPES)}.")
    return RECIPES[name]()

"""The runs: which there are, and what each of them does.

All share a corpus, a mixture and a budget; one run is a comparison, a variant and a seed. What is
compared is stated in tokens and in floating-point operations, and measured in bits per byte of the
validation text, which tokenizers of different sizes share.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mixlab.compressing import bits_per_byte, compress, rank, shares_at, text_sizes, token_counts
from mixlab.corpora.shards import TokenisedCorpus
from mixlab.corpora.tokenising import DomainSource, tokenise
from mixlab.corpora.tokenizer import load_tokenizer
from mixlab.growing.planning import Growth, small_of
from mixlab.growing.running import run_grown
from mixlab.inheriting import calibration, inherit, read_donor
from mixlab.mixture import Mixture
from mixlab.recipes import Architecture, Recipe
from mixlab.recipes.rates import rate_for_batch
from mixlab.rounds.plan import Rounds
from mixlab.rounds.running import run_rounds
from mixlab.schedules import MixtureSchedule
from mixlab.training.beginning import Beginning
from mixlab.training.events import Event
from mixlab.training.running import run_spec
from mixlab.training.spec import RunSpec
from mixlab.training.weights import WEIGHTS

LARGE, SMALL = 4096, 2048  # vocabularies
SHARE_BEFORE_GROWTH = 0.15  # of the tokens
HEIR_SHARE = 0.25  # of the tokens: an heir's budget
BATCH_FACTOR = 8

SHAPE = Architecture(
    layers=8, width=96, heads=6, kv_heads=2, ffn_width=256, vocabulary=LARGE, context=128,
    tied_head=False,
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One run. `flops` are of training alone unless the comparison says otherwise."""

    comparison: str
    variant: str
    seed: int

    @property
    def name(self) -> str:
        """For its folder."""
        return f"{self.comparison}-{self.variant}-{self.seed}".replace(" ", "_")


@dataclass(frozen=True)
class Setting:
    """What all runs share."""

    work: Path
    mixture: Mixture
    steps: int

    def corpus(self, vocabulary: int = LARGE) -> TokenisedCorpus:
        """The corpus with a tokenizer of that size."""
        return TokenisedCorpus.open(self.work / f"corpus-{vocabulary}")

    def recipe(self, **changes: Any) -> Recipe:
        """The baseline's recipe."""
        made = Recipe(
            name="tiny", architecture=SHAPE, steps=self.steps, batch_sequences=16,
            learning_rate=3e-3, warmup_steps=max(1, self.steps // 20), schedule="cosine",
            final_learning_rate=3e-4, evaluation_steps=(self.steps,), evaluation_tokens=32_768,
            compiled=False,
        )  # fmt: skip
        return replace(made, **changes)

    def spec(self, run: Run, recipe: Recipe, vocabulary: int = LARGE) -> RunSpec:
        """A run in its folder."""
        return RunSpec(
            corpus=self.work / f"corpus-{vocabulary}", recipe=recipe,
            schedule=MixtureSchedule.of(self.mixture), folder=self.work / run.name, seed=run.seed,
            threads=1, checkpoint_seconds=1e9,
        )  # fmt: skip


def make_corpora(setting: Setting, texts: dict[str, Path]) -> None:
    """The corpus with a tokenizer of its own, and with that one compressed at the mixture."""
    sources = [DomainSource(name, (str(texts[name]),)) for name in setting.mixture.domains]
    large = tokenise(sources, setting.work / f"corpus-{LARGE}", vocabulary=LARGE)
    tokenizer = load_tokenizer(large.folder / "tokenizer.json")
    smaller = compress(tokenizer, shares_at(token_counts(large), setting.mixture), SMALL)
    file = setting.work / "smaller.json"
    smaller.tokenizer.save(str(file))
    tokenise(sources, setting.work / f"corpus-{SMALL}", tokenizer_file=file)


def coverage(setting: Setting) -> float:
    """What the compressed vocabulary covers of the tokens at the mixture."""
    corpus = setting.corpus()
    shares = shares_at(token_counts(corpus), setting.mixture)
    return rank(load_tokenizer(corpus.folder / "tokenizer.json"), shares).coverage(SMALL)


def runs(seeds: int) -> Iterator[Run]:
    """All of them, donors before their heirs."""
    for comparison, variants in VARIANTS.items():
        for variant in variants:
            yield from (Run(comparison, variant, seed) for seed in range(1, seeds + 1))


def made(setting: Setting, run: Run) -> dict[str, Any]:
    """Do a run; its bits per byte at the mixture, tokens, FLOPs and seconds, JSON-ready."""
    began = time.monotonic()
    ended, recipe, vocabulary, more = VARIANTS[run.comparison][run.variant](setting, run)
    corpus = setting.corpus(vocabulary)
    sizes = text_sizes(corpus, load_tokenizer(corpus.folder / "tokenizer.json"))
    losses = ended["observations"][-1]["losses_nats"]
    bits = bits_per_byte(losses, sizes)
    return {
        **asdict(run),
        "bits_per_byte": sum(share * bits[name] for name, share in setting.mixture),
        "domains": bits,
        "parameters": recipe.architecture.parameters,
        "seconds": time.monotonic() - began,
        **more,
    }


Done = tuple[Event, Recipe, int, dict[str, Any]]
Make = Callable[[Setting, Run], Done]


def lasting(recipe: Recipe, steps: float) -> Recipe:
    """The recipe for another number of updates, evaluated at its end alone."""
    steps = max(2, round(steps))
    return replace(recipe, steps=steps, warmup_steps=max(1, steps // 20), evaluation_steps=(steps,))


def _told(recipe: Recipe, **more: Any) -> dict[str, Any]:
    flops = recipe.tokens * recipe.architecture.flops_per_token()
    return {"tokens": recipe.tokens, "flops": flops, **more}


def _trained(setting: Setting, run: Run, recipe: Recipe, **how: Any) -> Done:
    vocabulary = how.pop("vocabulary", LARGE)
    spec = replace(setting.spec(run, recipe, vocabulary), **how)
    return run_spec(spec, emit=_hush, stop=_never), recipe, vocabulary, _told(recipe)


def _hush(_: Event) -> None:
    return None


def _never() -> bool:
    return False


def _fresh(setting: Setting, run: Run) -> Done:
    return _trained(setting, run, setting.recipe())


# Growth


def _grown(setting: Setting, run: Run, recipe: Recipe) -> Done:
    before = int(SHARE_BEFORE_GROWTH * setting.recipe().tokens)
    spec = setting.spec(run, recipe)
    last = run_grown(spec, Growth(4, before), emit=_hush, stop=_never)
    return last, recipe, LARGE, {"tokens": recipe.tokens, "flops": _grown_flops(recipe, before)}


def _grown_flops(recipe: Recipe, before: int) -> int:
    small = small_of(recipe, 4, before)
    after = recipe.tokens - small.tokens
    each = small.architecture.flops_per_token(), recipe.architecture.flops_per_token()
    return small.tokens * each[0] + after * each[1]


def _grown_equal_tokens(setting: Setting, run: Run) -> Done:
    return _grown(setting, run, setting.recipe())


def _grown_equal_flops(setting: Setting, run: Run) -> Done:
    base = setting.recipe()
    before = int(SHARE_BEFORE_GROWTH * base.tokens)
    saved = base.tokens * base.architecture.flops_per_token() - _grown_flops(base, before)
    more = int(saved / base.architecture.flops_per_token() / base.tokens_per_step)
    return _grown(setting, run, lasting(base, base.steps + more))


# Rounds


def _in_rounds(setting: Setting, run: Run, recipe: Recipe, *, keep: bool = True) -> Done:
    rounds = Rounds(2, 0.5, keep_proportions=keep)
    last = run_rounds(setting.spec(run, recipe), rounds, emit=_hush, stop=_never)
    told = _told(recipe)
    return last, recipe, LARGE, {**told, "flops": told["flops"] + _scoring_flops(rounds, recipe)}


def _scoring_flops(rounds: Rounds, recipe: Recipe) -> int:
    """A forward pass, a third of training, over what the first round read."""
    return rounds.recipes(recipe)[0].tokens * recipe.architecture.flops_per_token() // 3


def _rounds_kept(setting: Setting, run: Run) -> Done:
    return _in_rounds(setting, run, setting.recipe())


def _rounds_free(setting: Setting, run: Run) -> Done:
    return _in_rounds(setting, run, setting.recipe(), keep=False)


def _rounds_equal_flops(setting: Setting, run: Run) -> Done:
    base = setting.recipe()
    flops = _told(base)["flops"]
    ratio = flops / (flops + _scoring_flops(Rounds(2, 0.5), base))
    return _in_rounds(setting, run, lasting(base, base.steps * ratio))


# Tokenizers


def _compressed(*, equal_flops: bool) -> Make:
    """A smaller head buys more tokens, each of fewer bytes."""
    return _shaped(replace(SHAPE, vocabulary=SMALL), equal_flops=equal_flops, vocabulary=SMALL)


# Shapes of about as many parameters


def _shaped(shape: Architecture, *, equal_flops: bool, vocabulary: int = LARGE) -> Make:
    """The baseline in another shape, for its tokens or for its FLOPs."""

    def make(setting: Setting, run: Run) -> Done:
        recipe = setting.recipe(architecture=shape)
        if equal_flops:
            ratio = SHAPE.flops_per_token() / shape.flops_per_token()
            recipe = lasting(recipe, recipe.steps * ratio)
        return _trained(setting, run, recipe, vocabulary=vocabulary)

    return make


SHALLOW = replace(SHAPE, layers=3, width=128, heads=8, ffn_width=352)
DEEP = replace(SHAPE, layers=16, width=72, ffn_width=216)


# Inheritance


def _donor(setting: Setting, run: Run) -> Done:
    return _trained(setting, run, setting.recipe(architecture=replace(SHAPE, layers=12)))


def _heir_recipe(setting: Setting) -> Recipe:
    shape = replace(SHAPE, layers=6, ffn_width=128)
    return lasting(setting.recipe(architecture=shape), HEIR_SHARE * setting.steps)


def _heir(importance: str | None) -> Make:
    def make(setting: Setting, run: Run) -> Done:
        recipe = _heir_recipe(setting)
        if importance is None:
            return _trained(setting, run, recipe)
        out = setting.work / f"{run.name}-heir"
        if not (out / WEIGHTS).is_file():
            donor = read_donor(setting.work / Run("inheritance", "donor", run.seed).name)
            tokens = calibration(
                setting.corpus(), setting.mixture, context=SHAPE.context, sequences=64
            )
            inherit(donor, recipe.architecture, tokens, importance=importance, out=out)  # type: ignore[arg-type]
        return _trained(setting, run, recipe, beginning=Beginning(out / WEIGHTS))

    return make


# Large batches: the rate that a rule gives


def _batch(exponent: float) -> Make:
    def make(setting: Setting, run: Run) -> Done:
        base = setting.recipe()
        size = BATCH_FACTOR * base.tokens_per_step
        rate = base.learning_rate
        if exponent:
            rate = rate_for_batch(
                rate, base_tokens=base.tokens_per_step, tokens=size, exponent=exponent
            )
        larger = replace(
            base, batch_sequences=BATCH_FACTOR * base.batch_sequences, learning_rate=rate
        )
        return _trained(setting, run, lasting(larger, base.steps / BATCH_FACTOR))

    return make


VARIANTS: dict[str, dict[str, Make]] = {
    "baseline": {"fresh": _fresh},
    "growth": {"equal tokens": _grown_equal_tokens, "equal FLOPs": _grown_equal_flops},
    "rounds": {
        "equal tokens": _rounds_kept, "equal FLOPs": _rounds_equal_flops,
        "equal tokens, proportions free": _rounds_free,
    },
    "tokenizer": {
        "equal tokens": _compressed(equal_flops=False),
        "equal FLOPs": _compressed(equal_flops=True),
    },
    "shape": {
        "3 layers, equal tokens": _shaped(SHALLOW, equal_flops=False),
        "3 layers, equal FLOPs": _shaped(SHALLOW, equal_flops=True),
        "16 layers, equal tokens": _shaped(DEEP, equal_flops=False),
        "16 layers, equal FLOPs": _shaped(DEEP, equal_flops=True),
    },
    "inheritance": {
        "donor": _donor, "random": _heir(None), "l1": _heir("l1"), "l2": _heir("l2"),
        "taylor": _heir("taylor"), "masks": _heir("masks"),
    },
    "batch": {"same rate": _batch(0), "r = 0.5": _batch(0.5), "r = 1": _batch(1.0)},
}  # fmt: skip

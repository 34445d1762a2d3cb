"""Training runs as clients request and see them."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field

from api.jobs.schemas import Priority
from api.trainings.methods import GrowthBody, InheritBody, RoundsBody
from api.values import MAX_DOMAINS, MAX_TOKENS, Body, Identifier, Name, Seed, Tokens, View
from mixlab.ledger.records import Run, RunRole

MAX_STEPS = 100_000_000
MAX_STAGES = 200
MAX_SIZE = 1_000_000  # of a shape, in any direction


class StageBody(Body):
    """One mixture of a schedule and how long it lasts."""

    proportions: dict[Name, float] = Field(max_length=MAX_DOMAINS, description="Sum to 1.")
    tokens: Tokens | None = Field(None, description="How long it lasts; none for the last stage.")
    ramp_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] = Field(
        0, description="Of these, how many move the shares linearly from the stage before."
    )


class ScheduleBody(Body):
    """Mixtures one after another."""

    stages: list[StageBody] = Field(min_length=1, max_length=MAX_STAGES)


Size = Annotated[int, Field(ge=1, le=MAX_SIZE)]


class ShapeBody(Body):
    """Sizes of a decoder instead of the recipe's, such as `mixlab recipe search` finds."""

    layers: Size | None = None
    width: Size | None = None
    heads: Size | None = Field(None, description="Of queries; each is width / heads wide.")
    kv_heads: Size | None = Field(None, description="That the heads share evenly.")
    ffn_width: Size | None = None
    tied_head: bool | None = Field(None, description="Whether embedding and head are one table.")


class TrainingBody(Body):
    """A mixture, by id, as proportions or as a schedule, and the recipe to train it with."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"mixture_id": "mix_0199f2c4", "recipe": "target_small"},
                {
                    "mixture_id": "mix_0199f2c4",
                    "recipe": "target_small",
                    "growth": {"factor": 3, "tokens": 200_000},
                },
                {
                    "mixture_id": "mix_0199f2c4",
                    "recipe": "target_small",
                    "shape": {"layers": 2, "ffn_width": 176},
                    "inherit": {"training_id": "run_0199f2c4"},
                },
                {
                    "corpus_id": "corpus_0199f2c4",
                    "proportions": {"code": 0.4, "legal": 0.6},
                    "recipe": "target_small",
                    "steps": 300,
                },
                {
                    "corpus_id": "corpus_0199f2c4",
                    "schedule": {
                        "stages": [
                            {"proportions": {"legal": 1.0}, "tokens": 1_000_000},
                            {
                                "proportions": {"code": 0.4, "legal": 0.6},
                                "ramp_tokens": 200_000,
                            },
                        ]
                    },
                    "recipe": "target_small",
                },
            ]
        }
    )

    mixture_id: Identifier | None = None
    proportions: dict[Name, float] | None = Field(
        None, max_length=MAX_DOMAINS, description="Instead of a mixture's id; sum to 1."
    )
    schedule: ScheduleBody | None = Field(
        None, description="Instead of one mixture: stages in their order, with linear ramps."
    )
    corpus_id: Identifier | None = Field(
        None,
        description="Needed with proportions or a schedule, and for a mixture without a corpus.",
    )
    recipe: Name = "target_small"
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] | None = Field(
        None, description="Instead of the recipe's own number of weight updates."
    )
    shape: ShapeBody | None = Field(None, description="Sizes instead of the recipe's own.")
    growth: GrowthBody | None = Field(
        None, description="Train a shallow model first and stack it. Not with rounds or inherit."
    )
    rounds: RoundsBody | None = Field(
        None, description="Train in rounds, on what is still hard. Not with growth or inherit."
    )
    inherit: InheritBody | None = Field(
        None, description="Begin with the best part of a larger run. Not with growth or rounds."
    )
    seed: Seed = 0
    label: Name = Field("full", description="A word for your own lists.")
    priority: Priority = Field(0, description="Of queued jobs, the highest is taken first.")


class TrainingView(View):
    """A training run: its mixture, recipe, and what it measured and consumed."""

    id: str = Field(examples=["run_0199f2c4"])
    job_id: str
    corpus_id: str
    role: RunRole
    label: str
    mixture: dict[str, float] = Field(description="Of a schedule: what all its tokens make up.")
    schedule: dict[str, Any] | None = Field(description="Its stages; null for one mixture.")
    recipe: dict[str, Any]
    growth: dict[str, Any] | None = Field(description="`factor` and `tokens`, if it grows.")
    rounds: dict[str, Any] | None = Field(description="As asked for, if it is in rounds.")
    inherit: dict[str, Any] | None = Field(
        description="`training_id` of the donor, `importance` and `sequences`, if it inherits."
    )
    seed: int
    observations: list[dict[str, Any]] = Field(
        description="`step`, `tokens` and `losses_nats` by domain, at each evaluation."
    )
    consumed: list[dict[str, Any]] = Field(
        description="Tokens really consumed: `from_step`, `to_step` and `tokens` by domain."
    )
    seconds: float | None = Field(description="Null until the run has ended.")
    error: dict[str, Any] | None = Field(description="Set where the run diverged.")
    links: dict[str, str]

    @classmethod
    def of(cls, run: Run, asked: Mapping[str, Any]) -> Self:
        """The view of a ledger's run, and of what its job was asked for."""
        return cls(
            id=run.id,
            job_id=run.job_id,
            corpus_id=run.corpus_id,
            role=run.role,
            label=run.label,
            mixture=dict(run.mixture),
            schedule=asked.get("schedule"),
            recipe=dict(run.recipe),
            growth=asked.get("growth"),
            rounds=asked.get("rounds"),
            inherit=asked.get("inherit"),
            seed=run.seed,
            observations=[dict(observation) for observation in run.observations],
            consumed=[dict(entry) for entry in run.consumed],
            seconds=run.seconds,
            error=dict(run.error) if run.error is not None else None,
            links={
                "self": f"/trainings/{run.id}",
                "job": f"/jobs/{run.job_id}",
                "corpus": f"/corpora/{run.corpus_id}",
            },
        )

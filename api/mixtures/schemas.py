"""Mixtures as clients ask for, register and see them."""

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, model_validator

from api.jobs.schemas import Priority
from api.mixtures.questions import (
    ConstraintsBody,
    DesignBody,
    ObjectiveBody,
    Params,
    TokensByDomain,
)
from api.values import MAX_DOMAINS, Body, Identifier, Name, Seed, Shares, Tokens, View
from mixlab.ledger.records import MixtureRecord

MAX_ROWS = 100_000
MAX_COLUMNS = 3 + 2 * MAX_DOMAINS + 100

Column = Annotated[str, Field(min_length=1, max_length=120)]
Cell = float | Annotated[str, Field(max_length=200)] | None
Row = Annotated[dict[Column, Cell], Field(max_length=MAX_COLUMNS)]


class FitBody(Body):
    """From a corpus, or a table of observations, to a solved mixture."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "corpus_id": "corpus_0199f2c4",
                    "recipe": "proxy_tiny",
                    "budget_tokens": 2_457_600,
                    "constraints": {"lower": {"code": 0.1}, "max_epochs": 4},
                },
                {
                    "observations": [
                        {
                            "run": "a",
                            "tokens": 1_000_000,
                            "mixture.code": 0.5,
                            "mixture.legal": 0.5,
                            "loss.code": 3.1,
                            "loss.legal": 3.4,
                        }
                    ],
                    "budget_tokens": 100_000_000,
                },
            ]
        }
    )

    corpus_id: Identifier | None = None
    observations: Annotated[list[Row], Field(min_length=1, max_length=MAX_ROWS)] | None = Field(
        None,
        description="Rows with `run`, `step` and/or `tokens`, optional `params`, "
        "`mixture.<domain>` and `loss.<target>`; then no proxy run is made.",
    )
    recipe: Name = Field("proxy_tiny", description="Of the proxy runs.")
    law: Name = Field(
        "auto", description="A law's name; auto gives each target the one that predicts it best."
    )
    replicates: int = Field(
        100, ge=0, le=1000, description="Bootstrap refits: for regret, its region, and risk."
    )
    budget_tokens: int = Field(
        le=10**18, description="Tokens of the run that the mixture is for; at least 1."
    )
    params: Params | None = Field(
        None, description="Its model's size; needed where the observations are of several sizes."
    )
    objective: ObjectiveBody = Field(default_factory=ObjectiveBody)
    constraints: ConstraintsBody = Field(default_factory=ConstraintsBody)
    design: DesignBody = Field(default_factory=DesignBody)
    priority: Priority = Field(0, description="Of queued jobs, the highest is taken first.")
    tokens_available: TokensByDomain | None = Field(
        None, description="Training tokens by domain; the corpus's own where left out."
    )
    tokens_per_step: Tokens | None = Field(
        None, description="Only where the table counts steps and has no tokens."
    )


class SolveBody(Body):
    """The same fit, another problem. What is left out stays as it was."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"mixture_id": "mix_0199f2c4", "constraints": {"upper": {"code": 0.3}}}]
        }
    )

    mixture_id: Identifier
    budget_tokens: int | None = Field(None, le=10**18)
    objective: ObjectiveBody | None = None
    constraints: ConstraintsBody | None = Field(
        None, description="Replaces all constraints of the mixture that is solved again."
    )
    tokens_available: TokensByDomain | None = None
    params: Params | None = None


class PredictBody(Body):
    """A run to predict by a mixture's fit."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "mixture_id": "mix_0199f2c4",
                    "proportions": {"code": 0.4, "legal": 0.6},
                    "budget_tokens": 100_000_000,
                }
            ]
        }
    )

    mixture_id: Identifier = Field(description="The mixture whose fit predicts.")
    proportions: Shares | None = Field(
        None, description="Sum to 1; those of the mixture itself where left out."
    )
    budget_tokens: int | None = Field(
        None, le=10**18, description="As when the mixture was solved where left out."
    )
    step: Annotated[float, Field(gt=0, le=1e18)] | None = Field(
        None, description="In the fit's step unit, instead of budget_tokens."
    )
    params: Params | None = None

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.step is not None and self.budget_tokens is not None:
            raise ValueError("give budget_tokens or step, not both")
        return self


class PredictionView(View):
    """One target's loss in nats per token."""

    nats: float
    low95: float = Field(description="Lower end of the 95% interval of a new run's loss.")
    high95: float


class PredictedView(View):
    """What a fit predicts for a run."""

    mixture_id: str
    proportions: dict[str, float]
    step: float
    step_unit: str
    params: float | None
    predictions: dict[str, PredictionView] = Field(
        description="By target; without targets whose law is undefined at these shares."
    )
    notes: list[str]


class DesignRequest(Body):
    """Runs to make: first ones over domains, or the next ones of a mixture's fit."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"domains": ["code", "legal", "web"], "count": 16},
                {"mixture_id": "mix_0199f2c4", "count": 4},
            ]
        }
    )

    mixture_id: Identifier | None = Field(
        None, description="Of its fit, the next runs that tell its optimum best."
    )
    corpus_id: Identifier | None = Field(None, description="First runs over its domains.")
    domains: Annotated[list[Name], Field(min_length=2, max_length=MAX_DOMAINS)] | None = Field(
        None, description="First runs over these."
    )
    count: int = Field(8, ge=1, le=256)
    constraints: ConstraintsBody | None = Field(
        None, description="That every run obeys; those of the mixture where left out."
    )
    budget_tokens: int | None = Field(None, le=10**18, description="Of a run, for epoch caps.")
    tokens_available: TokensByDomain | None = None
    seed: Seed = 0

    @model_validator(mode="after")
    def _one_subject(self) -> Self:
        given = [one for one in (self.mixture_id, self.corpus_id, self.domains) if one is not None]
        if len(given) != 1:
            raise ValueError("give one of mixture_id, corpus_id and domains")
        return self


class DesignView(View):
    """Mixtures to run, the most telling first."""

    mixtures: dict[str, dict[str, float]] = Field(description="Proportions by label.")
    step: float | None = Field(description="Of the runs, in the fit's step unit; of next runs.")
    params: float | None
    expected_regret_nats: float | None = Field(
        description="What the fit's optimum loses to the true one now, as far as can be told."
    )
    expected_regret_after_nats: float | None = Field(description="And after these runs.")


class MixtureBody(Body):
    """A mixture that you have already."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"corpus_id": "corpus_0199f2c4", "proportions": {"code": 0.4, "legal": 0.6}}
            ]
        }
    )

    corpus_id: Identifier
    proportions: dict[Name, float] = Field(
        max_length=MAX_DOMAINS, description="Sum to 1; a domain left out gets 0."
    )


class MixtureView(View):
    """A mixture, with the fit and the problem that it came from."""

    id: str = Field(examples=["mix_0199f2c4"])
    corpus_id: str | None
    job_id: str | None
    parent_id: str | None = Field(description="The mixture whose fit was solved again.")
    proportions: dict[str, float]
    fit: dict[str, Any] | None = Field(
        description="Law, and per target: parameters, standard errors, status, R2; null for a "
        "mixture that was registered."
    )
    report: dict[str, Any] = Field(
        description="Objective, constraints, budget_tokens, step, predicted_nats, solution, ..."
    )
    created_at: datetime
    links: dict[str, str]

    @classmethod
    def of(cls, record: MixtureRecord) -> Self:
        """The view of a ledger's mixture."""
        related = {
            "corpus": record.corpus_id and f"/corpora/{record.corpus_id}",
            "job": record.job_id and f"/jobs/{record.job_id}",
            "parent": record.parent_id and f"/mixtures/{record.parent_id}",
        }
        links = {name: path for name, path in related.items() if path}
        return cls(
            id=record.id,
            corpus_id=record.corpus_id,
            job_id=record.job_id,
            parent_id=record.parent_id,
            proportions=dict(record.proportions),
            fit=dict(record.fit) if record.fit is not None else None,
            report=dict(record.report),
            created_at=record.created_at,
            links={"self": f"/mixtures/{record.id}", **links},
        )


class MixturePage(View):
    """Some mixtures, newest first, without their fits and reports."""

    mixtures: list["MixtureSummary"]
    next_page_token: str = Field(description="Empty on the last page.")


class MixtureSummary(View):
    """A mixture in a list."""

    id: str
    corpus_id: str | None
    job_id: str | None
    parent_id: str | None
    proportions: dict[str, float]
    created_at: datetime

    @classmethod
    def of(cls, record: MixtureRecord) -> Self:
        """The summary of a ledger's mixture."""
        return cls(
            id=record.id,
            corpus_id=record.corpus_id,
            job_id=record.job_id,
            parent_id=record.parent_id,
            proportions=dict(record.proportions),
            created_at=record.created_at,
        )

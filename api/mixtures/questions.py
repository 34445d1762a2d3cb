"""What a mixture is to be good at, and what it must obey, as clients write it.

The plain form of these bodies is what `mixlab.questions` reads and what a mixture's report keeps.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from api.values import MAX_DOMAINS, Body, Name, Seed, Share, Shares, Tokens, Weights

MAX_CONSTRAINTS = 100
MAX_PARAMS = 1e15

Nats = Annotated[float, Field(gt=0, le=1e3)]
Params = Annotated[float, Field(gt=0, le=MAX_PARAMS)]
Coefficient = Annotated[float, Field(ge=-1e6, le=1e6)]
TokensByDomain = Annotated[dict[Name, Tokens], Field(max_length=MAX_DOMAINS)]


class ObjectiveBody(Body):
    """What the mixture minimises, of the targets' predicted losses."""

    weights: Weights | None = Field(None, description="By target; equal where left out.")
    kind: Literal["mean", "worst", "excess"] = Field(
        "mean",
        description="The weighted mean; the greatest weighted loss; or the greatest excess over a "
        "reference.",
    )
    reference_nats: Annotated[dict[Name, Nats], Field(max_length=1000)] | None = Field(
        None, description="Losses by target that the excess is over."
    )
    reference_mixture: Shares | None = Field(
        None, description="Or a mixture, whose predicted losses the excess is over."
    )
    risk: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None,
        description="Over the fit's bootstrap: 0 minimises their mean, 0.9 the mean of the worst "
        "tenth.",
    )

    @model_validator(mode="after")
    def _one_reference(self) -> "ObjectiveBody":
        given = [one for one in (self.reference_nats, self.reference_mixture) if one is not None]
        if len(given) != (self.kind == "excess"):
            raise ValueError(
                "kind excess needs reference_nats or reference_mixture, one of them, and no other "
                "kind has any"
            )
        return self


class GroupBody(Body):
    """Bounds on the shares of several domains together."""

    domains: Annotated[list[Name], Field(min_length=1, max_length=MAX_DOMAINS)]
    lower: Share = 0.0
    upper: Share = 1.0


class LinearBody(Body):
    """Bounds on a weighted sum of shares."""

    coefficients: Annotated[dict[Name, Coefficient], Field(min_length=1, max_length=MAX_DOMAINS)]
    lower: Coefficient | None = None
    upper: Coefficient | None = None
    name: Name | None = Field(None, description="Of the constraint, for messages and prices.")


class NearBody(Body):
    """A greatest distance from a reference mixture."""

    mixture: Shares
    kl_nats: Annotated[float, Field(gt=0, le=100)] = Field(
        description="KL(mixture || reference) at most."
    )


class RepetitionBody(Body):
    """Repeated tokens count for less, instead of a cap on epochs."""

    r_star: Annotated[float, Field(gt=0, le=1e6)] = Field(
        15.39, description="After so many repeats most of their worth is gone (arXiv 2305.16264)."
    )


class ConstraintsBody(Body):
    """What the mixture must obey."""

    lower: Shares = Field(default_factory=dict, description="Least share by domain.")
    upper: Shares = Field(default_factory=dict, description="Greatest share by domain.")
    max_epochs: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        4.0, description="Share x budget is at most this many times a domain's tokens."
    )
    groups: Annotated[dict[Name, GroupBody], Field(max_length=MAX_CONSTRAINTS)] = Field(
        default_factory=dict, description="By name, other than any domain's."
    )
    linear: Annotated[list[LinearBody], Field(max_length=MAX_CONSTRAINTS)] = Field(
        default_factory=list
    )
    near: NearBody | None = None
    repetition: RepetitionBody | None = Field(None, description="Takes the place of max_epochs.")
    trust: Annotated[float, Field(ge=1, le=1e6)] | None = Field(
        1.0,
        description="Factor by which shares may leave those that the fit's runs saw; 1 stays "
        "inside, null goes anywhere.",
    )


class DesignBody(Body):
    """Which proxy runs are made."""

    count: int = Field(14, ge=1, le=1000, description="Mixtures to try.")
    floor: float = Field(0.03, ge=0, lt=0.5, description="Least share of a domain in any run.")
    seed: Seed = 0
    repeated_seeds: int = Field(
        2, ge=0, le=100, description="Extra runs of one mixture, which measure the seed's noise."
    )

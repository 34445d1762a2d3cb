"""Kinds of value that several bodies share: names, shares, finite numbers, links."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from starlette.convertors import Convertor, register_url_convertor

MAX_DOMAINS = 200
MAX_TOKENS = 10**18  # fits a signed 64-bit integer, and is beyond any text there is
MAX_SEED = 2**32 - 1


class Body(BaseModel):
    """A request body: no unknown names, no NaN or infinity, no strings for numbers."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)


class View(BaseModel):
    """A response body."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)


# What no id can look like never reaches SQL.
ID_PATTERN = r"^[a-z]+_[0-9A-Za-z-]+$"


class IdConvertor(Convertor[str]):
    """`{job_id:id}` in a path: so `/mixtures/fit` is no mixture, and tells its own methods."""

    regex = ID_PATTERN[1:-1]

    def convert(self, value: str) -> str:
        """As it stands in the path."""
        return value

    def to_string(self, value: str) -> str:
        """As it stands in the path."""
        return value


register_url_convertor("id", IdConvertor())

# No control characters, not blank at its ends: names stand in tables and in log lines.
NAME_PATTERN = r"^[^\s\x00-\x1f\x7f]([^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f])?$"

Name = Annotated[str, Field(min_length=1, max_length=100, pattern=NAME_PATTERN)]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, le=1e9)]
Tokens = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Identifier = Annotated[str, Field(max_length=64, pattern=ID_PATTERN)]

Shares = Annotated[dict[Name, Share], Field(max_length=MAX_DOMAINS)]
Weights = Annotated[dict[Name, Weight], Field(max_length=MAX_DOMAINS)]

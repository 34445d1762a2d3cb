"""The options that say what to solve for, the same for every command that solves.

`asking` gives a command these options; it gets them as one value, `Given`.
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from math import inf
from typing import Annotated, Any

import typer

from mixlab.fitting import Fit
from mixlab.questions import Question
from mixlab.shortcuts import step_of
from mixlab.solvers import DEFAULT_MAX_EPOCHS

Assignments = list[str] | None

Params = Annotated[
    float | None, typer.Option(help="Model size of the run, in parameters, for laws that see it.")
]
AtStep = Annotated[
    float | None, typer.Option(help="Step of the loss to minimise; the last observed by default.")
]
Budget = Annotated[
    float | None, typer.Option(help="Token budget: the step where it is spent, and epoch caps.")
]
TokensPerStep = Annotated[
    float | None, typer.Option(help="Where the table has steps but no tokens.")
]
KINDS = ("mean", "worst", "excess")


@dataclass(frozen=True)
class Given:
    """What to solve for, as given on the command line; each field is an option."""

    at_step: AtStep = None
    budget_tokens: Budget = None
    tokens_per_step: TokensPerStep = None
    params: Params = None
    lower: Annotated[
        Assignments, typer.Option(metavar="NAME=SHARE", help="Least share of a domain or group.")
    ] = None
    upper: Annotated[
        Assignments, typer.Option(metavar="NAME=SHARE", help="Greatest share of a domain or group.")
    ] = None
    group: Annotated[
        Assignments,
        typer.Option(metavar="NAME=DOMAIN,...", help="Domains that --lower, --upper name as one."),
    ] = None
    linear: Annotated[
        Assignments,
        typer.Option(metavar="INEQUALITY", help="Such as 'code + 2*math >= 0.4'."),
    ] = None
    near: Annotated[
        str | None,
        typer.Option(metavar="DOMAIN=SHARE,...", help="Reference mixture to stay near; --kl-nats."),
    ] = None
    kl_nats: Annotated[
        float, typer.Option(help="Greatest KL divergence from the mixture of --near.")
    ] = 0.1
    weight: Annotated[
        Assignments, typer.Option(metavar="TARGET=WEIGHT", help="In the objective; equal if none.")
    ] = None
    objective: Annotated[
        str, typer.Option(help="mean, worst (target) or excess (over --reference).")
    ] = "mean"
    reference: Annotated[
        str | None,
        typer.Option(metavar="DOMAIN=SHARE,...", help="Mixture whose losses the excess is over."),
    ] = None
    risk: Annotated[
        float | None,
        typer.Option(help="Over the bootstrap: 0 their mean, 0.9 the mean of the worst tenth."),
    ] = None
    max_epochs: Annotated[
        float, typer.Option(help="Greatest number of passes over a domain's available tokens.")
    ] = DEFAULT_MAX_EPOCHS
    repetition: Annotated[
        float | None,
        typer.Option(metavar="R_STAR", help="Count repeats for less, instead of a cap; 15.39."),
    ] = None
    trust: Annotated[
        str,
        typer.Option(
            metavar="FACTOR", help="How far shares may leave those that runs saw; 1: not, or none."
        ),
    ] = "1"
    tokens_available: Annotated[
        Assignments, typer.Option(metavar="DOMAIN=TOKENS", help="Tokens that a domain has.")
    ] = None

    def question(self, fit: Fit) -> Question:
        """The question about a fit. Raises typer.BadParameter for what can't be read."""
        if self.objective not in KINDS:
            raise typer.BadParameter(f"{self.objective!r} is none of {', '.join(KINDS)}.")
        return Question(
            step=step_of(
                fit, budget_tokens=self.budget_tokens, step=self.at_step,
                tokens_per_step=self.tokens_per_step,
            ),
            budget_tokens=self.budget_tokens,
            params=self.params,
            tokens_available=self.available(),
            objective={
                "weights": assigned(self.weight, "--weight") or None,
                "kind": self.objective,
                "reference_mixture": self.reference and mixture(self.reference, "--reference"),
                "risk": self.risk,
            },
            constraints=self.limits(),
        )  # fmt: skip

    def checked(self) -> "Given":
        """Itself, once all that can be told without a fit is told."""
        self.limits()
        self.available()
        assigned(self.weight, "--weight")
        return self

    def available(self) -> dict[str, float] | None:
        """Tokens by domain, None where none are given."""
        return assigned(self.tokens_available, "--tokens-available") or None

    def limits(self) -> dict[str, Any]:
        """The constraints in their plain form (mixlab/questions.py)."""
        lower, upper = assigned(self.lower, "--lower"), assigned(self.upper, "--upper")
        groups: dict[str, dict[str, Any]] = {}
        for name, domains in (_group(text) for text in self.group or []):
            if name in groups:
                raise typer.BadParameter(f"{name!r} is given twice", param_hint="--group")
            groups[name] = {
                "domains": domains,
                "lower": lower.pop(name, 0.0),
                "upper": upper.pop(name, 1.0),
            }
        near = self.near and {"mixture": mixture(self.near, "--near"), "kl_nats": self.kl_nats}
        return {
            "lower": lower,
            "upper": upper,
            "max_epochs": self.max_epochs,
            "groups": groups,
            "linear": [linear(text) for text in self.linear or []],
            "near": near or None,
            "repetition": None if self.repetition is None else {"r_star": self.repetition},
            "trust": trust(self.trust),
        }


def asking(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of `Given` in place of its parameter `given`."""
    own = inspect.signature(command, eval_str=True).parameters
    options = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type
        )
        for field in fields(Given)
    ]
    shown = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own.values()]
    places = [one for one in shown if one.name != "given"]

    @wraps(command)
    def asked(**values: Any) -> None:
        given = Given(**{field.name: values.pop(field.name) for field in fields(Given)})
        command(given=given.checked(), **values)

    asked.__signature__ = inspect.Signature([*places, *options])  # type: ignore[attr-defined]
    asked.__annotations__ = {one.name: one.annotation for one in [*places, *options]}
    return asked


def assigned(given: Assignments, option: str) -> dict[str, float]:
    """`["code=0.2"]` as `{"code": 0.2}`."""
    values: dict[str, float] = {}
    for text in given or []:
        # The last = splits, since a domain's name may hold one.
        name, _, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            name = ""
        if not name:
            raise typer.BadParameter(f"{text!r} must read NAME=NUMBER", param_hint=option)
        if name in values:
            raise typer.BadParameter(f"{name!r} is given twice", param_hint=option)
        values[name] = value
    return values


def trust(text: str) -> float | None:
    """A factor of at least 1, or "none"."""
    if text == "none":
        return None
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 1 <= factor < inf:
        raise typer.BadParameter(
            f"{text!r} is neither none nor a factor of at least 1", param_hint="--trust"
        )
    return factor


def mixture(text: str, option: str) -> dict[str, float]:
    """`"code=0.4,web=0.6"` as `{"code": 0.4, "web": 0.6}`."""
    return assigned([part.strip() for part in text.split(",") if part.strip()], option)


def linear(text: str) -> dict[str, Any]:
    """`"code + 2*math >= 0.4"` as coefficients and a bound."""
    match = re.fullmatch(r"(.+?)\s*(<=|>=)\s*(\S+)", text.strip())
    try:
        if match is None:
            raise ValueError("no <= or >=")
        bound = float(match[3])
        coefficients: dict[str, float] = {}
        for sign, term in _terms(match[1]):
            number, star, name = term.partition("*")
            value = float(number) if star else 1.0
            name = (name if star else term).strip()
            coefficients[name] = coefficients.get(name, 0.0) + sign * value
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is no inequality ({error}); write such as 'code + 2*math >= 0.4'",
            param_hint="--linear",
        ) from None
    side = "lower" if match[2] == ">=" else "upper"
    return {"coefficients": coefficients, side: bound, "name": text.strip()}


def _terms(text: str) -> list[tuple[float, str]]:
    """Signs and terms; + and - stand between spaces, since a domain's name may hold them."""
    parts = re.split(r"\s+([+-])\s+", " + " + text.strip() + " ")
    signs, terms = parts[1::2], parts[2::2]
    for term in terms:
        if not term.strip(" +"):
            raise ValueError("a term is missing")
    return [(-1.0 if sign == "-" else 1.0, term) for sign, term in zip(signs, terms, strict=True)]


def _group(text: str) -> tuple[str, list[str]]:
    name, _, members = text.partition("=")
    domains = [part.strip() for part in members.split(",") if part.strip()]
    if not name or not domains:
        raise typer.BadParameter(f"{text!r} must read NAME=DOMAIN,DOMAIN", param_hint="--group")
    return name, domains

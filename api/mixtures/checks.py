"""What can be told wrong about a request for a mixture before any job starts.

A fit takes minutes to hours; a request that can't succeed is refused at once.
SciPy and pandas take over a second to load, so the parts that need them load
on first use and the API starts without.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from api.mixtures.questions import ConstraintsBody, ObjectiveBody
from api.mixtures.schemas import FitBody
from mixlab.errors import (
    InvalidBudget,
    InvalidMixture,
    InvalidTable,
    NotReady,
    TooFewMixtures,
)
from mixlab.laws import AUTO, Law, law, minimum_mixtures
from mixlab.ledger.records import Corpus
from mixlab.ledger.sql import Ledger
from mixlab.mixture import Mixture, checked_budget
from mixlab.recipes import recipe
from mixlab.runs import Observations

if TYPE_CHECKING:
    from mixlab.solvers import Constraints

LEAST_REPLICATES = 2  # that a risk can be told from


def checked_proportions(proportions: Mapping[str, float], corpus: Corpus) -> dict[str, float]:
    """Proportions over all domains of the corpus; a domain left out gets 0.

    Raises InvalidMixture where they are no mixture, or name a domain that the corpus lacks.
    """
    mixture = Mixture(proportions)
    domains = list(corpus.spec["domains"])
    strange = sorted(set(mixture.domains) - set(domains))
    if strange:
        raise InvalidMixture(
            f"{_listed(strange)} is no domain of {corpus.id}; it has {_listed(domains)}."
        )
    return {domain: mixture.proportions.get(domain, 0.0) for domain in domains}


def checked_fit(body: FitBody, ledger: Ledger) -> dict[str, Any]:
    """The payload of a fit job. Raises what the request has wrong."""
    chosen = None if body.law == AUTO else law(body.law)
    proxy = recipe(body.recipe)
    budget = checked_budget(body.budget_tokens)
    corpus = ledger.corpus(body.corpus_id) if body.corpus_id is not None else None
    if body.observations is not None:
        observations = _checked_table(body.observations, body.law, corpus)
        domains: Sequence[str] = observations.domains
        targets: Sequence[str] = observations.targets
        tokens_per_step = _tokens_per_step(observations, chosen, body.tokens_per_step)
        _check_size(observations, chosen, body.params)
    elif corpus is not None:
        domains = targets = list(corpus.spec["domains"])
        tokens_per_step = proxy.tokens_per_step
        _check_design(body, domains)
    else:
        raise InvalidTable("Nothing to fit: give corpus_id, or observations, or both.")
    available = _tokens_available(body, corpus)
    check_objective(body.objective, targets, domains)
    _check_risk(body)
    check_feasible(body.constraints, domains, budget, available)
    return {
        "corpus_id": body.corpus_id,
        "observations": body.observations,
        "recipe": body.recipe,
        "law": body.law,
        "replicates": body.replicates,
        "budget_tokens": budget,
        "params": body.params,
        "objective": body.objective.model_dump(),
        "constraints": body.constraints.model_dump(),
        "design": body.design.model_dump(),
        "tokens_available": available,
        "tokens_per_step": tokens_per_step,
    }


def check_feasible(
    constraints: ConstraintsBody,
    domains: Sequence[str],
    budget_tokens: int | None,
    tokens_available: Mapping[str, int] | None,
) -> "Constraints":
    """The solver's form. Raises InfeasibleConstraints where no mixture of these domains obeys."""
    from mixlab.design.filling import allowed
    from mixlab.questions import constraints_from
    from mixlab.solvers.region import inside

    found = constraints_from(constraints.model_dump(), budget_tokens, tokens_available)
    inside(allowed(found, tuple(domains)))
    return found


def check_objective(
    objective: ObjectiveBody, targets: Sequence[str], domains: Sequence[str]
) -> None:
    """Raise InvalidMixture for unknown targets or domains, and weights that are all 0."""
    weights = objective.weights
    if weights is not None:
        _only_known(weights, targets, "objective's weights name")
        if not any(weights.values()):
            raise InvalidMixture(
                "The objective's weights are all 0, so every mixture is as good; give one above 0, "
                "or leave the weights out."
            )
    _only_known(objective.reference_nats or {}, targets, "objective's reference_nats name")
    if objective.reference_mixture is not None:
        named = Mixture(objective.reference_mixture).domains
        _only_known(named, domains, "objective's reference_mixture names")


def _only_known(named: Collection[str], known: Sequence[str], what: str) -> None:
    strange = sorted(set(named) - set(known))
    if strange:
        raise InvalidMixture(f"The {what} {_listed(strange)}, but there are only {_listed(known)}.")


def _checked_table(
    rows: Sequence[Mapping[str, Any]], law_name: str, corpus: Corpus | None
) -> Observations:
    from mixlab.tables import from_rows

    observations = from_rows([dict(row) for row in rows])
    _check_fit(observations, law_name)
    mixtures = int(observations.mixture_index().max()) + 1
    _check_enough(mixtures, law_name, "the observations have")
    if corpus is not None:
        known = list(corpus.spec["domains"])
        _only_known(observations.domains, known, "table names")
    return observations


def _check_fit(observations: Observations, law_name: str) -> None:
    """Raise what a fit would raise of the table at once: losses, shares, steps and sizes."""
    from mixlab.choosing.competing import in_one_unit, suited
    from mixlab.fitting.evidence import checked

    if not (observations.losses_nats > 0).any():
        raise InvalidTable("No row has a loss above 0; a fit needs measured losses.")
    if law_name != AUTO:
        checked(law(law_name), observations)
        return
    seen = in_one_unit(observations, None)
    for one in suited(seen, None)[0][:1]:
        checked(one, seen)


def _check_risk(body: FitBody) -> None:
    """A risk is over refits, which a fit must be asked for."""
    if body.objective.risk is not None and body.replicates < LEAST_REPLICATES:
        raise InvalidMixture(
            f"The objective's risk is taken over bootstrap refits, and replicates is "
            f"{body.replicates}; give at least {LEAST_REPLICATES}, for example 200, or leave risk "
            "out."
        )


def _check_design(body: FitBody, domains: Sequence[str]) -> None:
    _check_enough(body.design.count, body.law, "design.count asks for")
    if body.design.floor * len(domains) >= 1:
        raise InvalidMixture(
            f"design.floor {body.design.floor} for each of {len(domains)} domains leaves nothing "
            f"to vary; use less than {1 / len(domains):.4f}."
        )


def _check_enough(mixtures: int, law_name: str, who: str) -> None:
    least = minimum_mixtures(law_name)
    if mixtures < least:
        named = "Any law" if law_name == AUTO else f"The law {law_name}"
        raise TooFewMixtures(
            f"{named} needs at least {least} different mixtures; {who} {mixtures}."
        )


def _check_size(observations: Observations, chosen: Law | None, params: float | None) -> None:
    """Laws that see sizes must be told the run's, unless all observed ones are the same."""
    sizes = {size for size in observations.params.tolist() if size == size}
    if params is None and len(sizes) > 1 and (chosen is None or chosen.needs_params):
        raise InvalidBudget(
            f"The observations are of {len(sizes)} model sizes, from {min(sizes):,.0f} to "
            f"{max(sizes):,.0f} parameters; give params, the size of the run to predict."
        )


def train_tokens(corpus: Corpus) -> dict[str, int] | None:
    """Training tokens of a corpus by domain; None until it is measured."""
    if corpus.tokens is None:
        return None
    return {name: int(counts["train_tokens"]) for name, counts in corpus.tokens.items()}


def _tokens_available(body: FitBody, corpus: Corpus | None) -> dict[str, int] | None:
    if body.tokens_available is not None or corpus is None:
        return body.tokens_available
    if corpus.tokens is not None:
        return train_tokens(corpus)
    if body.observations is not None and body.constraints.max_epochs is not None:
        raise NotReady(
            f"max_epochs needs the token counts of {corpus.id}, which is not measured yet; "
            f"POST /corpora/{corpus.id}/entropy first, or give tokens_available."
        )
    return None  # the job measures the corpus before it solves


def _tokens_per_step(
    observations: Observations, chosen: Law | None, given: int | None
) -> int | None:
    """Tokens of one step as the rows tell, 1 where they count tokens alone; else as given.

    None where they disagree but a law over model sizes counts tokens anyway.
    """
    told = observations.tokens_per_step
    if told is not None and told < 1:
        told = None
    if told is not None and given is not None and abs(given / told - 1) > 0.001:
        raise InvalidTable(
            f"tokens_per_step is {given}, but the table's rows have {told:g} tokens a step (1 "
            "where there is no `step` column); leave tokens_per_step out."
        )
    if told is not None or given is not None:
        return given or round(told or 0)
    sized = len(set(observations.params.tolist())) > 1 if chosen is None else chosen.needs_params
    if sized and bool((observations.tokens > 0).all()):
        return None
    raise InvalidTable(
        "The table doesn't say how many tokens a step has, or its rows disagree; add a `tokens` "
        "column, leave `step` out, or give tokens_per_step."
    )


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(repr(name) for name in list(names)[:10])
    return shown + (f" and {len(names) - 10} more" if len(names) > 10 else "")

"""What proxy runs say: their observations, which of them count, and what to know about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mixlab.errors import TooFewMixtures
from mixlab.laws import AUTO, minimum_mixtures
from mixlab.ledger.records import Run
from mixlab.mixture import Mixture
from mixlab.recipes import Recipe
from mixlab.runs import Observation, Observations
from mixlab.solvers import DEFAULT_MAX_EPOCHS
from workers.jobs.proxies import Ended


@dataclass(frozen=True)
class Evidence:
    """Observations, and where they came from."""

    observations: Observations
    proxy_runs: list[dict[str, Any]] = field(default_factory=list)
    references: Mapping[str, Mixture] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # what a reader should know, in words


def evidence_of(
    ended: Sequence[Ended],
    law_name: str,
    train_tokens: Mapping[str, int],
    references: Mapping[str, Mixture],
) -> Evidence:
    """Observations of the runs that succeeded.

    Raises what the first run met where all failed, TooFewMixtures where too many did.
    """
    used = [one.run for one in ended if one.run is not None and one.used]
    _check_enough(ended, law_name)
    listed = [_listed(one, train_tokens) for one in ended]
    rows = [row for made in used for row in observations_of(made)]
    return Evidence(Observations.of(rows), listed, references, notes_on(listed))


def _listed(one: Ended, train_tokens: Mapping[str, int]) -> dict[str, Any]:
    """A proxy run as the report lists it."""
    proxy = one.proxy
    return {
        "run_id": one.run.id if one.run else None,
        "job_id": one.job.id,
        "label": proxy.label,
        "seed": proxy.seed,
        "mixture": dict(proxy.mixture.proportions),
        "epochs": {
            domain: share * proxy.recipe.tokens / train_tokens[domain]
            for domain, share in proxy.mixture
        },
        "state": one.state,
        "seconds": one.run.seconds if one.run else None,
        "error": one.recorded_error,
    }


def _check_enough(ended: Sequence[Ended], law_name: str) -> None:
    failed = [one for one in ended if not one.used]
    if len(failed) == len(ended):
        before = f"None of the {len(ended)} proxy runs succeeded; {failed[0].proxy.key}: "
        raise failed[0].error(before)
    mixtures = {one.proxy.label for one in ended if one.used}
    least = minimum_mixtures(law_name)
    if len(mixtures) < least:
        why = "; ".join(f"{one.proxy.key}: {one.error()}" for one in failed[:3])
        raise TooFewMixtures(
            f"Proxy runs succeeded on {len(mixtures)} mixtures, but "
            f"{'any law' if law_name == AUTO else law_name} needs at least {least}; "
            f"{len(failed)} of {len(ended)} runs did not succeed. {why}"
        )


def notes_on(proxy_runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Runs that were left out, and domains that runs repeated beyond what repeating teaches."""
    notes = []
    left_out = [f"{r['label']}/seed-{r['seed']}" for r in proxy_runs if r["state"] != "used"]
    if left_out:
        notes.append(
            f"{len(left_out)} of {len(proxy_runs)} proxy runs failed or were cancelled, and were "
            f"left out: {', '.join(left_out)}"
        )
    for domain in proxy_runs[0]["epochs"]:
        most = max(run["epochs"][domain] for run in proxy_runs)
        if most > DEFAULT_MAX_EPOCHS:
            notes.append(
                f"proxy runs read {domain} up to {most:.1f} times; beyond "
                f"{DEFAULT_MAX_EPOCHS:g} epochs repeated text teaches less than new text, so its "
                "losses may say too little of what a larger share would bring"
            )
    return notes


def observations_of(made: Run) -> list[Observation]:
    """What a recorded run measured, as observations."""
    training = Recipe.from_dict(dict(made.recipe))
    return [
        Observation(
            run=made.id,
            mixture=Mixture(made.mixture),
            step=int(seen["step"]),
            tokens=int(seen["tokens"]),
            losses_nats=seen["losses_nats"],
            params=training.architecture.parameters,
        )
        for seen in made.observations
    ]

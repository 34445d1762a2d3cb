"""From the service's answers to the demo's report; shape in `mixlab/report.py`."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev
from typing import Any

from mixlab import __version__
from mixlab.fitting import Fit
from mixlab.laws import law as law_named
from mixlab.mixture import Mixture
from mixlab.predictions import predictions
from mixlab.recipes import Recipe

CURVE_POINTS = 60

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Answers:
    """What the service said, as it said it."""

    corpus: Json
    mixture: Json
    proxies: Sequence[Json]  # training runs, with their observations
    long_run: Json
    target_runs: Mapping[str, Json]
    seconds: Mapping[str, float]


def build(answers: Answers) -> dict[str, Any]:
    """The whole report."""
    mixtures = _mixtures(answers)
    law = Fit.from_dict(answers.mixture["fit"])
    target = Recipe.from_dict(answers.target_runs["natural"]["recipe"])
    return {
        "domains": _domains(answers.corpus),
        "mixtures": mixtures,
        "proxy_runs": list(answers.mixture["report"]["proxy_runs"]),
        "observations": _observations(answers.proxies),
        "fit": _fit(answers),
        "saved_fit": _without_replicates(answers.mixture["fit"]),
        "answer": _answer(answers.mixture["report"]),
        "long_run": _long_run(answers.long_run, law, mixtures["solved"]),
        "target_runs": _targets(answers.target_runs, law, answers.mixture["report"]["step"]),
        "seconds": dict(answers.seconds),
        "target": {
            "recipe": target.name,
            "parameters": target.architecture.parameters,
            "tokens": target.tokens,
        },
        "budget_tokens": answers.mixture["report"]["budget_tokens"],
        "notes": [
            *answers.mixture["report"]["notes"],
            *answers.mixture["report"]["solution"]["notes"],
        ],
        "proxy_steps": answers.proxies[0]["recipe"]["steps"],
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "version": __version__,
    }


def _domains(corpus: Json) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "train_tokens": counts["train_tokens"],
            "validation_tokens": counts["validation_tokens"],
            "documents": counts["documents"],
            "duplicates": counts["duplicates"],
            "entropy_nats": {
                kind: corpus["entropy"][name][kind] for kind in ("shannon", "joint", "conditional")
            },
        }
        for name, counts in corpus["tokens"].items()
    ]


def _mixtures(answers: Answers) -> dict[str, dict[str, float]]:
    references = answers.mixture["report"]["references"]
    found = {kind: dict(entry["proportions"]) for kind, entry in references.items()}
    return {**found, "solved": dict(answers.mixture["proportions"])}


def _observations(proxies: Sequence[Json]) -> list[dict[str, Any]]:
    return [
        {
            "run": run["id"],
            "label": run["label"],
            "seed": run["seed"],
            "mixture": dict(run["mixture"]),
            "step": seen["step"],
            "tokens": seen["tokens"],
            "losses_nats": dict(seen["losses_nats"]),
        }
        for run in proxies
        for seen in run["observations"]
    ]


def _fit(answers: Answers) -> dict[str, Any]:
    fitted, report = answers.mixture["fit"], answers.mixture["report"]
    noise = report["seed_noise_nats"] or {}
    chosen = (report["choice"] or {"targets": {}})["targets"]
    return {
        "law": fitted["law"],
        "domains": {
            name: {
                "law": found["law"],
                "formula": law_named(found["law"]).formula,
                "reason": chosen[name]["reason"] if name in chosen else None,
                "parameters": found["parameters"],
                "standard_errors": found["standard_errors"],
                "status": found["status"],
                "r2": found["r2_log_loss"],
                "heldout_mre_percent": report["heldout_mre_percent"].get(name),
                "seed_noise_nats": noise.get(name),
            }
            for name, found in fitted["targets"].items()
        },
        **_gain_noise(answers.proxies),
    }


def _without_replicates(fit: Json) -> dict[str, Any]:
    targets = {name: {**one, "replicates": None} for name, one in fit["targets"].items()}
    return {**fit, "targets": targets}


def _answer(report: Json) -> dict[str, Any]:
    """What the solution promises, with what the bootstrap says of that."""
    solution, regret, runs = report["solution"], report["regret"], report["next_runs"]
    return {
        "status": solution["status"],
        "gap_nats": solution["gap_nats"],
        "objective_nats": solution["objective_nats"],
        "statements": list(solution["statements"]),
        "promise": report["promise"],
        "regret": regret,
        "next_runs": None if runs is None else runs["mixtures"],
        "expected_regret_nats": None if runs is None else runs["expected_regret_nats"],
    }


def _gain_noise(proxies: Sequence[Json]) -> dict[str, Any]:
    """Standard deviation of the difference between two runs that differ in their seed alone.

    From the repeated runs of one mixture, at their last evaluation, on the mean over domains.
    """
    repeats = [run for run in proxies if run["label"] == "uniform"]
    means = [mean(run["observations"][-1]["losses_nats"].values()) for run in repeats]
    noise = sqrt(2) * stdev(means) if len(means) > 1 else None
    return {"gain_noise_nats": noise, "noise_runs": len(means)}


def _long_run(run: Json, law: Fit, solved: Mapping[str, float]) -> dict[str, Any]:
    last, first = run["observations"][-1], law.steps_seen[0]
    mixture = Mixture(solved)
    predicted = predictions(law, mixture, float(last["step"]))
    measured = last["losses_nats"]
    overall = mean(one.nats for one in predicted.values()), mean(measured.values())
    ratio = (last["step"] / first) ** (1 / (CURVE_POINTS - 1))
    steps = [first * ratio**at for at in range(CURVE_POINTS)]
    return {
        "steps": last["step"],
        "predicted_nats": overall[0],
        "measured_nats": overall[1],
        "relative_error_percent": 100 * (overall[0] / overall[1] - 1),
        "domains": {
            name: {
                "predicted_nats": predicted[name].nats,
                "low95": predicted[name].low95,
                "high95": predicted[name].high95,
                "measured_nats": measured[name],
            }
            for name in measured
        },
        "law": _curve(law, mixture, steps),
        "curve": [
            {"step": seen["step"], "measured_nats": mean(seen["losses_nats"].values())}
            for seen in run["observations"]
        ],
        "tokens_consumed": list(run["consumed"]),
    }


def _curve(law: Fit, mixture: Mixture, steps: Sequence[float]) -> dict[str, list[float]]:
    """Means over domains at each step, of the losses and of their intervals' ends.

    The ends' means are the interval of the mean where domains miss together: no narrower.
    """
    found = [predictions(law, mixture, step).values() for step in steps]
    return {
        "steps": list(steps),
        "nats": [mean(one.nats for one in row) for row in found],
        "low95": [mean(one.low95 for one in row) for row in found],
        "high95": [mean(one.high95 for one in row) for row in found],
    }


def _targets(runs: Mapping[str, Json], law: Fit, step: float) -> dict[str, dict[str, Any]]:
    """Measured and predicted loss of each bigger run, and gains against the natural mixture.

    The law was fitted on the proxy: only its differences between mixtures, not its level,
    speak of the bigger recipe.
    """
    measured = {kind: mean(_last(run).values()) for kind, run in runs.items()}
    predicted = {
        kind: mean(law.predict(Mixture(run["mixture"]), step).values())
        for kind, run in runs.items()
    }
    return {
        kind: {
            "mixture": dict(run["mixture"]),
            "measured_nats": measured[kind],
            "domains": {name: {"measured_nats": loss} for name, loss in _last(run).items()},
            "predicted_gain_nats": predicted["natural"] - predicted[kind],
            "measured_gain_nats": measured["natural"] - measured[kind],
            "tokens_consumed": list(run["consumed"]),
        }
        for kind, run in runs.items()
    }


def _last(run: Json) -> Mapping[str, float]:
    losses: Mapping[str, float] = run["observations"][-1]["losses_nats"]
    return losses

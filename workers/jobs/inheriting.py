"""The heir that a training begins with: cut out of its donor once, in the run's folder.

    home/runs/<run>/heir/weights.safetensors, inheritance.json

An attempt that is killed meanwhile leaves nothing that the next one would take for an heir.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mixlab.corpora.files import read_json
from mixlab.corpora.shards import TokenisedCorpus
from mixlab.errors import MissingFile
from mixlab.inheriting import Donor, calibration, inherit, read_donor
from mixlab.inheriting.running import REPORT
from mixlab.training.beginning import Beginning
from mixlab.training.spec import RunSpec
from mixlab.training.weights import WEIGHTS
from workers.jobs.context import JobContext

HEIR = "heir"


def beginning_with_heir(context: JobContext, spec: RunSpec, asked: Mapping[str, Any]) -> RunSpec:
    """The spec with the heir's weights, which are made now if they aren't there.

    Raises MissingFile where the donor's are gone, and what reading and cutting it raises.
    """
    heir = spec.folder / HEIR
    if not (heir / WEIGHTS).is_file():
        context.progress("inherit", 0.0)
        donor = _donor(context, str(asked["training_id"]))
        corpus = TokenisedCorpus.open(spec.corpus)
        shape = spec.recipe.for_vocabulary(corpus.vocabulary).architecture
        tokens = calibration(
            corpus,
            spec.schedule,
            context=min(shape.context, donor.architecture.context),
            sequences=int(asked["sequences"]),
            seed=spec.seed,
        )
        inherit(donor, shape, tokens, importance=asked["importance"], out=heir)
    return replace(spec, beginning=Beginning(heir / WEIGHTS))


def inherited_in(folder: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's result tells of its donor: layers that stayed, and losses before training."""
    report = read_json(folder / HEIR / REPORT)
    return {
        "training_id": asked["training_id"],
        "layers": report["layers"]["kept"],
        "loss_nats": report["loss_nats"],
    }


def _donor(context: JobContext, run_id: str) -> Donor:
    weights = context.settings.run_weights(run_id)
    if not weights.is_file():
        raise MissingFile(
            f"The weights of training {run_id}, to inherit from, are gone: there is no {weights}. "
            "Proxy runs lose theirs after MIXLAB_RETENTION_DAYS; train it again, and inherit from "
            "the new one."
        )
    return read_donor(weights.parent)

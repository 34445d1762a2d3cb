"""Trackers: other systems that show a run's metrics, if asked for.

    "tensorboard"   <folder>/tensorboard; `tensorboard --logdir <folder>`
    "wandb"         <folder>/wandb, offline unless WANDB_MODE says "online"; `wandb sync` sends it
    "mlflow"        where MLFLOW_TRACKING_URI says, else <folder>/mlflow.db

Each is an optional package, imported when it is asked for. Names and packages are checked
before any work; a tracker that fails later, as a full disk or a network does, costs a warning
and its values, never the run. Every step is told once: a run that goes back is silent until
it is where it was. What decides anything is in the run's record and metrics.jsonl, never here.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from mixlab.errors import InvalidRecipe, MissingExtra

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """What is told of a run as it goes."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Values after an update, by name; steps rise."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


Opener = Callable[[Path, str, Mapping[str, Any]], Tracker]


class Trackers:
    """Several trackers as one that never fails. `told` is the last step that was told before."""

    def __init__(self, trackers: Sequence[tuple[str, Tracker]], told: int = 0) -> None:
        self._trackers = trackers
        self._told = told
        self._lost: dict[str, int] = {}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Tell all of them, once for each step."""
        if step <= self._told:
            return
        self._told = step
        for name, tracker in self._trackers:
            self._safely(name, lambda tracker=tracker: tracker.log(step, values))  # type: ignore[misc]

    def close(self) -> None:
        """Close all of them."""
        for name, tracker in self._trackers:
            self._safely(name, tracker.close)

    def _safely(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as problem:  # noqa: BLE001 - whatever a tracker raises is its own affair
            if name not in self._lost:
                log.warning(
                    "%s failed (%s: %s); the run goes on, and metrics.jsonl has all of it.",
                    name, type(problem).__name__, problem,
                )  # fmt: skip
            self._lost[name] = self._lost.get(name, 0) + 1


def check_trackers(trackers: Sequence[str | Tracker], folder: Path | None) -> None:
    """Raise InvalidRecipe for a name that is none, MissingExtra for a missing package."""
    for name in trackers:
        if not isinstance(name, str):
            continue
        if name not in OPENERS:
            raise InvalidRecipe(f"Trackers are {', '.join(OPENERS)}; not {name!r}.")
        if find_spec(name) is None:
            raise MissingExtra(
                f"The tracker {name!r} needs a package that isn't installed; "
                "pip install 'mixlab[trackers]' brings it."
            )
        if folder is None:
            raise InvalidRecipe(f"The tracker {name!r} needs the run to have a folder.")


def opened(
    trackers: Sequence[str | Tracker], folder: Path | None, identity: Mapping[str, Any], told: int
) -> Trackers:
    """The trackers of a run, ready to be told. One that can't be opened is left out, in words."""
    found: list[tuple[str, Tracker]] = []
    for asked in trackers:
        if not isinstance(asked, str):
            found.append((type(asked).__name__, asked))
        elif folder is not None:
            try:
                found.append((asked, OPENERS[asked](folder, _name(identity), identity)))
            except Exception:  # a server that is away must not keep a run from starting
                log.warning("%s couldn't be opened; the run goes on without.", asked, exc_info=True)
    return Trackers(found, told)


def _name(identity: Mapping[str, Any]) -> str:
    """The same for every attempt of a run, and for no other run."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return f"{identity['recipe']['name']}-{digest[:12]}"


class _TensorBoard:
    def __init__(self, folder: Path, name: str, identity: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))
        self._writer.add_text("run", f"{name}\n\n    {json.dumps(identity)}", 0)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _WandB:
    def __init__(self, folder: Path, name: str, identity: Mapping[str, Any]) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "mixlab"),
            dir=str(folder),
            id=name,
            name=name,
            resume="allow",
            mode=os.environ.get("WANDB_MODE", "offline"),  # type: ignore[arg-type]
            config=dict(identity),
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    def __init__(self, folder: Path, name: str, identity: Mapping[str, Any]) -> None:
        from mlflow.tracking import MlflowClient

        where = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
        self._client = MlflowClient(where)
        experiment = self._client.get_experiment_by_name("mixlab")
        number = (
            self._client.create_experiment("mixlab")
            if experiment is None
            else experiment.experiment_id
        )
        found = self._client.search_runs([number], f"tags.`mixlab.run` = '{name}'", max_results=1)
        if found:
            self._run = found[0].info.run_id
            self._client.update_run(self._run, "RUNNING")
            return
        run = self._client.create_run(number, run_name=name, tags={"mixlab.run": name})
        self._run = run.info.run_id
        for key, value in identity["recipe"].items():
            self._client.log_param(self._run, key, value)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(
            self._run, [Metric(name, value, now, step) for name, value in values.items()]
        )

    def close(self) -> None:
        self._client.set_terminated(self._run)


OPENERS: dict[str, Opener] = {"tensorboard": _TensorBoard, "wandb": _WandB, "mlflow": _MLflow}
NAMES = tuple(OPENERS)

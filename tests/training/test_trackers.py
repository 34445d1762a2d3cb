"""Trackers by the real packages, read back; one that fails costs a warning and nothing else."""

import json
import logging
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from mixlab.corpora.shards import TokenisedCorpus
from mixlab.errors import InvalidRecipe, MissingExtra
from mixlab.mixture import Mixture
from mixlab.training import TrainingResult, trackers, train
from tests.training.conftest import small_recipe

ValuesByStep = dict[int, float]


def tracked(
    corpus: TokenisedCorpus, mixture: Mixture, folder: Path, *names: object
) -> tuple[TrainingResult, list[dict[str, object]]]:
    """A run in two attempts, and its lines of metrics."""
    recipe = replace(small_recipe(30), evaluation_steps=(20, 30))
    asked = iter([False] * 14 + [True])
    options = {"seed": 1, "threads": 1, "folder": folder, "trackers": names}
    assert train(recipe, corpus, mixture, stop=lambda: next(asked), **options).step == 15
    result = train(recipe, corpus, mixture, **options)
    return result, [json.loads(line) for line in (folder / "metrics.jsonl").open()]


def expected(lines: list[dict[str, object]], name: str) -> ValuesByStep:
    return {line["step"]: pytest.approx(line[name]) for line in lines}


def read_tensorboard(folder: Path, name: str) -> ValuesByStep:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(name)}


def read_wandb(folder: Path, name: str) -> ValuesByStep:
    from wandb.proto import wandb_internal_pb2

    def records(file: Path) -> Iterator[wandb_internal_pb2.Record]:
        for data in leveldb_records(file.read_bytes()[7:], offset=7):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            yield record

    found: ValuesByStep = {}
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        # W&B's own process writes the file, to its end a little after `finish` has returned.
        deadline = time.monotonic() + 30
        while not any(record.HasField("exit") for record in records(file)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for record in records(file):
            values = {(item.key or "/".join(item.nested_key)): item.value_json
                      for item in record.history.item}  # fmt: skip
            if name in values:
                found[record.history.step.num] = json.loads(values[name])
    return found


def leveldb_records(data: bytes, offset: int) -> Iterator[bytes]:
    """Records of LevelDB's log format, which a .wandb file has after its own 7 bytes."""
    whole, at = b"", 0
    while at + 7 <= len(data):
        left = 32_768 - (at + offset) % 32_768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        if at + 7 + length > len(data):
            return  # a write that is under way
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, last
            yield whole
            whole = b""


def read_mlflow(folder: Path, name: str) -> ValuesByStep:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    number = client.get_experiment_by_name("mixlab").experiment_id
    (run,) = client.search_runs([number])
    assert run.info.status == "FINISHED"
    assert run.data.params["learning_rate"] == "0.01"
    return {
        metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, name)
    }


READERS = {"tensorboard": read_tensorboard, "wandb": read_wandb, "mlflow": read_mlflow}


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_what_a_tracker_holds_is_the_runs_metrics(
    corpus: TokenisedCorpus, mixture: Mixture, tmp_path: Path, name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for variable in ("WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    result, lines = tracked(corpus, mixture, tmp_path, name)
    assert [line["step"] for line in lines] == [10, 20, 30]
    for metric in ("train_loss_nats", "learning_rate", "tokens"):
        assert READERS[name](tmp_path, metric) == expected(lines, metric)
    losses = {seen.step: pytest.approx(seen.losses_nats["noise"]) for seen in result.observations}
    assert READERS[name](tmp_path, "loss_nats/noise") == losses


class Remembering:
    """A tracker of one's own."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.closed = 0

    def log(self, step: int, values: Mapping[str, float]) -> None:
        assert values["tokens"] == 256 * step
        self.told.append(step)

    def close(self) -> None:
        self.closed += 1


def test_a_tracker_of_ones_own_is_told_each_step_once(
    corpus: TokenisedCorpus, mixture: Mixture, tmp_path: Path
) -> None:
    mine = Remembering()
    tracked(corpus, mixture, tmp_path, mine)
    assert mine.told == [10, 20, 30]
    assert mine.closed == 2


class Failing:
    def log(self, step: int, values: Mapping[str, float]) -> None:
        raise OSError(28, "No space left on device")

    def close(self) -> None:
        raise ConnectionError("no route to host")


def test_a_tracker_that_fails_costs_one_warning_and_not_the_run(
    corpus: TokenisedCorpus, mixture: Mixture, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"seed": 1, "threads": 1}
    plain = train(small_recipe(), corpus, mixture, **options)
    with caplog.at_level(logging.WARNING, logger="mixlab"):
        failed = train(small_recipe(), corpus, mixture, trackers=(Failing(),), **options)
    assert failed.observations == plain.observations
    (warning,) = [record.getMessage() for record in caplog.records if "Failing" in record.message]
    assert "No space left on device" in warning
    assert "the run goes on" in warning


def test_a_tracker_that_cannot_be_opened_costs_a_warning(
    corpus: TokenisedCorpus, mixture: Mixture, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tensorboard").write_text("a file where a folder must be")
    with caplog.at_level(logging.WARNING, logger="mixlab"):
        result = train(small_recipe(10), corpus, mixture, seed=1, threads=1, folder=tmp_path,
                       trackers=("tensorboard",))  # fmt: skip
    assert result.ended == "done"
    assert "tensorboard couldn't be opened" in caplog.text


def test_names_and_packages_are_checked_before_any_work(
    corpus: TokenisedCorpus, mixture: Mixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attempt(name: str, folder: Path | None) -> None:
        train(small_recipe(), corpus, mixture, seed=1, folder=folder, trackers=(name,))

    with pytest.raises(InvalidRecipe, match="Trackers are tensorboard, wandb, mlflow; not 'neptu"):
        attempt("neptune", tmp_path)
    with pytest.raises(InvalidRecipe, match="'wandb' needs the run to have a folder"):
        attempt("wandb", None)
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'mixlab\[trackers\]'"):
        attempt("wandb", tmp_path)
    assert not list(tmp_path.iterdir())

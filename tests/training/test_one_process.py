"""One process of a run, as torchrun or a shell starts it: events, SIGTERM, errors."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mixlab.corpora.shards import TokenisedCorpus
from mixlab.mixture import Mixture
from mixlab.schedules import MixtureSchedule
from mixlab.training.__main__ import _stop_on_signals, main
from mixlab.training.spec import RunSpec
from tests.training.conftest import small_recipe

STEPS = 240


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Put back what `main` does to signals."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def written(corpus: TokenisedCorpus, folder: Path, **changes: Any) -> Path:
    spec = RunSpec(
        corpus=corpus.folder, recipe=small_recipe(STEPS), folder=folder, threads=1,
        schedule=MixtureSchedule.of(Mixture({"counting": 0.5, "noise": 0.5})), **changes,
    )  # fmt: skip
    return spec.write(folder / "spec.json")


def told(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True)
            if line.endswith("\n")]  # fmt: skip


def stopper(events: Path) -> threading.Thread:
    """Sends a signal to this process once the run has measured something, half-way."""

    def wait() -> None:
        while not any(event["event"] == "observation" for event in told(events)):
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_both_signals_ask_for_a_stop(number: signal.Signals) -> None:
    stop = _stop_on_signals()
    assert not stop()
    os.kill(os.getpid(), number)
    assert stop()


def test_a_signal_makes_a_checkpoint_and_the_next_run_ends_where_an_unbroken_one_does(
    corpus: TokenisedCorpus, tmp_path: Path
) -> None:
    events = tmp_path / "events"
    whole = written(corpus, tmp_path / "whole", events=tmp_path / "whole-events")
    broken = written(corpus, tmp_path / "broken", checkpoint_seconds=1e9)
    thread = stopper(events)
    assert main([str(broken), "--events", str(events)]) == 0
    thread.join()
    stopped = told(events)[-1]
    assert stopped["event"] == "stopped"
    assert STEPS // 2 <= stopped["step"] < STEPS
    assert main([str(broken), "--events", str(events)]) == 0
    assert main([str(whole)]) == 0
    (resumed, unbroken) = (told(path)[-1] for path in (events, tmp_path / "whole-events"))
    assert resumed["event"] == unbroken["event"] == "ended"
    for name in ("observations", "consumed", "step"):
        assert resumed[name] == unbroken[name]
    one, other = (load_file(tmp_path / n / "weights.safetensors") for n in ("whole", "broken"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_events_tell_the_start_progress_each_observation_and_the_end(
    corpus: TokenisedCorpus, tmp_path: Path
) -> None:
    events = tmp_path / "events"
    assert main([str(written(corpus, tmp_path / "run", events=events))]) == 0
    found = told(events)
    assert found[0] == {"event": "started", "rank": 0, "pid": os.getpid()}
    seen = [event["step"] for event in found if event["event"] == "observation"]
    assert seen == [STEPS // 2, STEPS]
    assert found[-1]["event"] == "ended"
    assert [one["step"] for one in found[-1]["observations"]] == seen
    assert sum(sum(part["tokens"].values()) for part in found[-1]["consumed"]) == STEPS * 256


def test_an_error_is_an_event_and_one_line_without_a_traceback(
    corpus: TokenisedCorpus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = RunSpec.read(written(corpus, tmp_path / "run"))
    value = spec.to_dict() | {"schedule": MixtureSchedule.of(Mixture({"law": 1.0})).to_dict()}
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(value))
    assert main([str(path), "--events", str(tmp_path / "events")]) == 1
    last = told(tmp_path / "events")[-1]
    assert (last["event"], last["type"]) == ("error", "invalid-mixture")
    assert "law" in last["detail"]
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.exc_info is None
    assert "law" in record.getMessage()


def test_a_missing_spec_is_an_event_too(tmp_path: Path) -> None:
    assert main([str(tmp_path / "none.json"), "--events", str(tmp_path / "events")]) == 1
    assert told(tmp_path / "events")[-1]["type"] == "missing-file"


def test_any_other_end_is_worth_another_try(
    corpus: TokenisedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError("the device went away")

    monkeypatch.setattr("mixlab.training.__main__.run_spec", broken)
    path = written(corpus, tmp_path / "run")
    assert main([str(path), "--events", str(tmp_path / "events")]) == 70
    last = told(tmp_path / "events")[-1]
    assert (last["event"], last["rank"]) == ("crashed", 0)
    assert "OSError: the device went away" in last["detail"]


@pytest.mark.slow
def test_a_process_ends_with_its_standard_input(corpus: TokenisedCorpus, tmp_path: Path) -> None:
    path, events = written(corpus, tmp_path / "run", checkpoint_seconds=0.0), tmp_path / "events"
    command = [sys.executable, "-m", "mixlab.training", str(path), "--events", str(events)]
    with subprocess.Popen([*command, "--end-with-stdin"], stdin=subprocess.PIPE) as process:
        while not told(events):
            assert process.poll() is None
            time.sleep(0.02)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == -signal.SIGKILL


def test_a_place_that_takes_no_events_is_told_in_one_line(
    corpus: TokenisedCorpus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = written(corpus, tmp_path / "run")
    assert main([str(spec), "--events", str(tmp_path / "gone" / "events")]) == 1
    assert "takes no events (No such file or directory)" in caplog.text
    assert "Traceback" not in caplog.text

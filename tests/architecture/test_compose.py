"""The compose file names modules, settings and queues that exist."""

import importlib.util
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from mixlab.ledger.records import Queue
from mixlab.training.launching import torchrun
from workers.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]


def test_every_module_that_a_service_runs_exists() -> None:
    commands = [service["command"] for service in SERVICES.values() if "command" in service]
    words = [pair for command in commands for pair in pairwise(command)]
    ran = [word for flag, word in words if flag in ("-m", "-A")]
    assert "workers.app" in ran
    assert not [module for module in ran if importlib.util.find_spec(module) is None]


def test_every_setting_is_one_that_mixlab_reads() -> None:
    told = {
        name.removeprefix("MIXLAB_").lower()
        for service in SERVICES.values()
        for name in service.get("environment", {})
        if name.startswith("MIXLAB_")
    }
    assert told
    assert told <= set(WorkerSettings.model_fields)


def test_every_queue_has_a_worker() -> None:
    served = {
        service["command"][service["command"].index("-Q") + 1]
        for service in SERVICES.values()
        if "-Q" in service.get("command", [])
    }
    assert served == {queue.value for queue in Queue}


def test_the_trainer_runs_the_command_of_a_jobs_processes() -> None:
    grace = WorkerSettings().checkpoint_grace_seconds
    _, *ours = torchrun(Path("SPEC"), 1, grace)
    python, *theirs = SERVICES["trainer"]["command"]
    assert python == "python"
    free = {ours.index("--nproc-per-node") + 1, len(ours) - 1}  # processes and spec are variables
    assert [w for n, w in enumerate(theirs) if n not in free] == [
        w for n, w in enumerate(ours) if n not in free
    ]
    assert all(theirs[n].startswith("${") for n in free)


@pytest.mark.parametrize("name", ["worker-gpu", "trainer"])
def test_a_stopped_training_has_time_for_its_checkpoint(name: str) -> None:
    period = SERVICES[name]["stop_grace_period"]
    assert period.endswith("s")
    assert float(period[:-1]) >= WorkerSettings().checkpoint_grace_seconds + 15


def test_the_gpu_worker_has_a_slot_for_each_gpu() -> None:
    command = SERVICES["worker-gpu"]["command"]
    assert command[command.index("-c") + 1] == "${GPUS:-1}"
    for name in ("worker-cpu", "worker-gpu"):
        assert SERVICES[name]["environment"]["MIXLAB_GPUS"] == "${GPUS:-0}"


def test_nothing_but_the_api_is_published_and_that_on_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert list(published) == ["api"]
    assert all(port.startswith("127.0.0.1:") for port in published["api"])


def test_the_dockerfile_has_the_targets_that_compose_builds() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    targets = set(re.findall(r"^FROM \S+ AS (\w+)", dockerfile, re.MULTILINE))
    wanted = {s["build"]["target"] for s in SERVICES.values() if "build" in s}
    assert wanted <= targets

"""The compose file names modules, settings and queues that exist."""

import importlib.util
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from mixlab.ledger.records import Queue
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


def test_nothing_but_the_api_is_published_and_that_on_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert list(published) == ["api"]
    assert all(port.startswith("127.0.0.1:") for port in published["api"])


def test_the_dockerfile_has_the_targets_that_compose_builds() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    targets = set(re.findall(r"^FROM \S+ AS (\w+)", dockerfile, re.MULTILINE))
    wanted = {s["build"]["target"] for s in SERVICES.values() if "build" in s}
    assert wanted <= targets

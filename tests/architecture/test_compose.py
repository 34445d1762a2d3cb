"""The compose files name what exists, and every service in them is held to their rules."""

import importlib.util
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.settings import Settings
from mixlab.ledger.records import Queue
from mixlab.training.launching import torchrun
from workers.app import configuration
from workers.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
MAIN, JOIN, CPU, SHARE = (
    "docker-compose.yml", "deploy/compose.join.yml", "deploy/compose.cpu-training.yml",
    "deploy/compose.share.yml",
)  # fmt: skip
FILES: dict[str, Any] = {
    name: yaml.safe_load((ROOT / name).read_text()) for name in (MAIN, JOIN, CPU, SHARE)
}
SERVICES: dict[str, Any] = FILES[MAIN]["services"]
# Whole services; SHARE only adds to those of MAIN.
ALL = [
    pytest.param(service, id=f"{name}:{file}")
    for file in (MAIN, JOIN, CPU)
    for name, service in FILES[file]["services"].items()
]
NAMED = [(str(param.id).partition(":")[0], param.values[0]) for param in ALL]
ONE_SHOT = ("migrate", "trainer")
LASTING = [param for param in ALL if not str(param.id).startswith(ONE_SHOT)]
OURS = [param for param in ALL if param.values[0]["image"].startswith("mixlab:")]


def _seconds(period: str) -> float:
    assert period.endswith("s")
    return float(period[:-1])


def _words(service: dict[str, Any]) -> list[str]:
    told = service.get("command", [])
    return [str(word) for word in told]


# What is named exists.


@pytest.mark.parametrize("service", OURS)
def test_every_module_that_a_service_runs_exists(service: dict[str, Any]) -> None:
    check = service.get("healthcheck", {}).get("test", [])
    words = [*pairwise(_words(service)), *pairwise(check)]
    ran = [word for flag, word in words if flag in ("-m", "-A")]
    assert not [module for module in ran if importlib.util.find_spec(module) is None]


@pytest.mark.parametrize("service", OURS)
def test_every_setting_is_one_that_mixlab_reads(service: dict[str, Any]) -> None:
    told = [name for name in service["environment"] if name.startswith("MIXLAB_")]
    known = set(WorkerSettings.model_fields) | set(Settings.model_fields)
    assert told
    assert {name.removeprefix("MIXLAB_").lower() for name in told} <= known


def test_every_queue_has_a_worker() -> None:
    for file in (MAIN, JOIN):
        served = {
            words[words.index("-Q") + 1]
            for words in map(_words, FILES[file]["services"].values())
            if "-Q" in words
        }
        assert served == {queue.value for queue in Queue}


def test_the_trainer_runs_the_command_of_a_jobs_processes() -> None:
    grace = WorkerSettings().checkpoint_grace_seconds
    _, *ours = torchrun(Path("SPEC"), 1, grace)
    python, *theirs = _words(SERVICES["trainer"])
    assert python == "python"
    free = {ours.index("--nproc-per-node") + 1, len(ours) - 1}  # processes and spec are variables
    assert [w for n, w in enumerate(theirs) if n not in free] == [
        w for n, w in enumerate(ours) if n not in free
    ]
    assert all(theirs[n].startswith("${") for n in free)


def test_the_dockerfile_has_the_targets_that_compose_builds() -> None:
    targets = set(re.findall(r"^FROM \S+ AS (\S+)", (ROOT / "Dockerfile").read_text(), re.M))
    for param in ALL:
        service = param.values[0]
        if "build" in service:
            assert service["build"]["target"] in targets
            assert service["image"] == f"mixlab:{service['build']['target']}"


def test_every_file_that_is_mounted_is_there() -> None:
    mounted = [
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
        if volume.startswith("./")
    ]
    assert mounted
    assert not [path for path in mounted if not (ROOT / path).exists()]


# Every service is closed.


@pytest.mark.parametrize("service", ALL)
def test_no_service_is_root_or_can_become_more_than_it_is(service: dict[str, Any]) -> None:
    assert re.fullmatch(r"[1-9]\d*:\d+", service["user"])
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True


@pytest.mark.parametrize("service", ALL)
def test_every_service_writes_to_volumes_and_memory_alone(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    for volume in service.get("volumes", []):
        source, target, *mode = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).split(":")
        assert source in ("data", "postgres", "broker", "prometheus", "grafana") or mode == ["ro"]
        assert "docker.sock" not in target


@pytest.mark.parametrize("service", ALL)
def test_every_service_has_limits(service: dict[str, Any]) -> None:
    assert service["pids_limit"] > 0
    assert service["mem_limit"]
    assert "cpus" in service
    assert set(service["ulimits"]) == {"nofile", "core"}
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}


@pytest.mark.parametrize("service", LASTING)
def test_every_lasting_service_is_checked_and_comes_back(service: dict[str, Any]) -> None:
    assert service["restart"] == "unless-stopped"
    check = service["healthcheck"]
    assert check["test"][0] in ("CMD", "CMD-SHELL")
    assert _seconds(check["timeout"]) <= _seconds(check["interval"])
    assert _seconds(check["start_period"]) > 0
    assert "stop_grace_period" in service


@pytest.mark.parametrize("service", ALL)
def test_no_secret_stands_in_an_environment_or_an_argument(service: dict[str, Any]) -> None:
    for name, value in service.get("environment", {}).items():
        secret = re.search(r"PASSWORD|SECRET|TOKEN|CREDENTIAL", name)
        assert not secret or (name.endswith("_FILE") and value.startswith("/run/secrets/"))
        assert not re.search(r"://[^/@]*:[^/@]*@", str(value))
    granted = {f"/run/secrets/{name}" for name in service.get("secrets", [])}
    text = yaml.safe_dump({key: service[key] for key in service if key != "secrets"})
    named = set(re.findall(r"/run/secrets/\w+", text))
    # Prometheus' own configuration names the key that it is granted.
    assert named - {"/run/secrets/metrics_key"} <= granted
    assert granted - named <= {"/run/secrets/metrics_key"} | (
        granted if "--conf=/tmp/flower.py" in text else set()
    )


def test_every_secret_that_is_granted_is_one_that_is_made() -> None:
    made = (ROOT / "scripts" / "make-secrets").read_text()
    for file in (MAIN, JOIN, CPU):
        known = FILES[MAIN]["secrets"] | FILES[file].get("secrets", {})
        granted = {
            name for service in FILES[file]["services"].values() for name in service["secrets"]
        }
        assert granted <= set(known)
        assert all(name in made for name in known)
        assert all(entry["file"].startswith("${SECRETS:-") for entry in known.values())


@pytest.mark.parametrize("service", ALL)
def test_every_image_is_pinned_or_built_here(service: dict[str, Any]) -> None:
    name, _, tag = service["image"].rpartition(":")
    assert name == "mixlab" or re.match(r"v?\d+\.\d+", tag), service["image"]


# What may be reached.


def test_only_the_api_is_published_and_what_shows_it_and_all_on_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {"api", "grafana", "flower"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)
    for name in ("grafana", "flower"):
        assert SERVICES[name]["profiles"] == ["observability"]
    assert not [s for f in (JOIN, CPU) for s in FILES[f]["services"].values() if "ports" in s]


def test_stores_and_workers_can_neither_reach_the_world_nor_be_reached() -> None:
    assert FILES[MAIN]["networks"]["inside"] == {"internal": True}
    for name, service in SERVICES.items():
        outside = name in ("api", "grafana", "flower")
        assert service["networks"] == (["inside", "outside"] if outside else ["inside"]), name


def test_sharing_publishes_the_stores_on_an_address_that_must_be_given() -> None:
    shared = FILES[SHARE]["services"]
    assert set(shared) == {"postgres", "broker"}
    for service in shared.values():
        assert set(service) == {"networks", "ports"}
        assert all(port.startswith("${BIND:?") for port in service["ports"])


# Profiles and GPUs.


def test_profiles_are_as_told() -> None:
    profiles = {name: service.get("profiles") for name, service in SERVICES.items()}
    assert profiles == {
        **dict.fromkeys(("postgres", "broker", "migrate", "api", "sweep", "worker-cpu")),
        "worker-gpu": ["gpu"], "trainer": ["trainer"],
        **{name: ["observability"] for name in ("prometheus", "grafana", "flower")},
    }  # fmt: skip


def test_gpus_are_asked_for_where_something_trains_alone() -> None:
    for name, service in NAMED:
        assert ("deploy" in service) == (name in ("worker-gpu", "trainer"))
        if "deploy" in service:
            (device,) = service["deploy"]["resources"]["reservations"]["devices"]
            assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}


def test_torch_is_where_something_trains_alone() -> None:
    with_torch = {
        str(param.id).partition(":")[0]
        for param in ALL
        if param.values[0]["image"] == "mixlab:train"
    }
    assert with_torch == {"worker-gpu", "trainer", "worker-training"}


@pytest.mark.parametrize("file", [MAIN, JOIN])
def test_the_gpu_worker_has_a_slot_for_each_gpu(file: str) -> None:
    services = FILES[file]["services"]
    command = _words(services["worker-gpu"])
    assert command[command.index("-c") + 1] == "${GPUS:-1}"
    for name in ("worker-cpu", "worker-gpu"):
        assert services[name]["environment"]["MIXLAB_GPUS"] == "${GPUS:-0}"


# Beginning and ending.


def test_nothing_begins_before_what_it_needs() -> None:
    for name, service in SERVICES.items():
        if service["image"].startswith("mixlab:") and name not in ONE_SHOT:
            # On the stores themselves too: what depends on another stops before it.
            assert service["depends_on"] == {
                "migrate": {"condition": "service_completed_successfully"},
                "postgres": {"condition": "service_healthy"},
                "broker": {"condition": "service_healthy"},
            }
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}


def test_what_stops_has_time_for_it() -> None:
    settings, soft = WorkerSettings(), configuration("redis://x")["worker_soft_shutdown_timeout"]
    for name, service in NAMED:
        grace = _seconds(service.get("stop_grace_period", "10s"))
        if name in ("worker-gpu", "worker-training", "trainer"):
            assert grace >= settings.checkpoint_grace_seconds + soft + 15
        elif name.startswith("worker"):
            assert grace >= settings.kill_after_seconds + soft + 15


@pytest.mark.parametrize("file", [MAIN, JOIN])
def test_jobs_that_read_text_fit_into_their_container(file: str) -> None:
    service = FILES[file]["services"]["worker-cpu"]

    def default(text: str) -> str:
        return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)

    slots = int(default(_words(service)[_words(service).index("-c") + 1]))
    each = int(default(service["environment"]["MIXLAB_READ_MEMORY_BYTES"]))
    whole = default(service["mem_limit"])
    assert whole.endswith("g")
    assert slots * each <= 0.8 * int(whole[:-1]) * 2**30


# Other hosts do what the first one does.


@pytest.mark.parametrize(
    ("file", "name", "like"),
    [
        (JOIN, "worker-cpu", "worker-cpu"),
        (JOIN, "worker-gpu", "worker-gpu"),
        (CPU, "worker-training", "worker-gpu"),
    ],
)
def test_workers_elsewhere_are_like_those_here(file: str, name: str, like: str) -> None:
    theirs, ours = FILES[file]["services"][name], SERVICES[like]
    alike = [
        "user", "init", "read_only", "cap_drop", "security_opt", "pids_limit", "ulimits",
        "logging", "tmpfs", "secrets", "healthcheck", "restart", "stop_grace_period", "image",
    ]  # fmt: skip
    assert {key: theirs[key] for key in alike} == {key: ours[key] for key in alike}
    slots = _words(ours).index("-c") + 1
    assert [w for n, w in enumerate(_words(theirs)) if n != slots] == [
        w for n, w in enumerate(_words(ours)) if n != slots
    ]
    different = {"MIXLAB_DATABASE_URL", "MIXLAB_BROKER_URL", "MIXLAB_GPUS", "MIXLAB_THREADS"}
    assert {k: v for k, v in theirs["environment"].items() if k not in different} == {
        k: v for k, v in ours["environment"].items() if k not in different
    }


@pytest.mark.parametrize("name", ["make-secrets", "base-images", "postgres-entrypoint"])
def test_scripts_are_programs_that_their_shell_understands(name: str) -> None:
    path = ROOT / "scripts" / name
    assert path.read_text().startswith("#!/usr/bin/env bash\n")
    assert path.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_secrets_are_made_once_in_a_folder_that_is_closed(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    make = [str(ROOT / "scripts" / "make-secrets")]
    for _ in range(2):
        subprocess.run(make, check=True, env=os.environ | {"SECRETS": str(folder)})
        made = {path.name: path.read_text() for path in folder.iterdir()}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert set(made) == set(FILES[MAIN]["secrets"])
    words = [text for name, text in made.items() if name != "metrics_key"]
    assert all(re.fullmatch("[0-9a-f]{64}", word) for word in words)
    assert len(set(words)) == len(words)
    (folder / "broker_password").write_text("mine")
    subprocess.run(make, check=True, env=os.environ | {"SECRETS": str(folder)})
    assert (folder / "broker_password").read_text() == "mine"


def test_the_smoke_says_why_it_can_not_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "compose-smoke")],
        env=os.environ | {"PATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 77
    assert "there is no docker command" in done.stdout

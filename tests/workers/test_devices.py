"""How many processes a job has, and which GPUs a host has."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mixlab.ledger import Ledger
from mixlab.ledger.records import JobKind, Queue
from mixlab.recipes import Recipe, proxy_smoke, tinyllama_1b
from workers import gpus
from workers.gpus import Gpu, installed, parsed
from workers.jobs.devices import processes_of
from workers.settings import WorkerSettings

LISTED = """\
GPU 0: NVIDIA H200 (UUID: GPU-8a56a4bc-e184-a047-2620-be19fdf913d5)
GPU 1: NVIDIA A100 80GB PCIe (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 1g.10gb     Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 2g.20gb     Device  1: (UUID: MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb)
"""
MEMORY = """\
GPU-8a56a4bc-e184-a047-2620-be19fdf913d5, 143771
GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77, 81920
"""


@pytest.fixture(autouse=True)
def no_gpu_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    folder = tmp_path_factory.mktemp("ledger")
    opened = Ledger.open(f"sqlite:///{folder / 'ledger.sqlite'}")
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("role", "recipe", "told", "gpus", "expected"),
    [
        ("proxy", tinyllama_1b(), 8, 8, 1),
        ("full", tinyllama_1b(), None, 0, 1),
        ("full", tinyllama_1b(), None, 8, 8),
        ("full", tinyllama_1b(), 2, 8, 2),
        ("full", tinyllama_1b(), 9, 4, 4),  # each needs a GPU where there are any
        ("full", proxy_smoke(), None, 8, 1),  # 512 tokens a step
        ("full", proxy_smoke(), 3, 0, 3),
        ("full", proxy_smoke(), 99, 0, 8),  # each needs a sequence
        ("full", replace(proxy_smoke(), batch_stages=((9, 4),)), 99, 0, 4),
    ],
)
def test_a_full_scale_run_has_a_process_per_gpu_as_far_as_its_steps_have_tokens(
    ledger: Ledger, role: str, recipe: Recipe, told: int | None, gpus: int, expected: int
) -> None:
    payload = {"role": role, "recipe": recipe.to_dict()}
    job = ledger.submit(JobKind.TRAIN, payload, queue=Queue.GPU)
    names = ",".join(f"GPU-{n}" for n in range(gpus))
    settings = WorkerSettings(training_processes=told, simulated_gpus=names)
    assert processes_of(job, settings) == expected


def test_what_nvidia_smi_lists() -> None:
    whole, *parts = parsed(LISTED, MEMORY)
    assert whole == Gpu("GPU-8a56a4bc-e184-a047-2620-be19fdf913d5", "NVIDIA H200", 143771 * 2**20)
    assert [part.name for part in parts] == [
        "NVIDIA A100 80GB PCIe MIG 1g.10gb", "NVIDIA A100 80GB PCIe MIG 2g.20gb",
    ]  # fmt: skip
    assert parts[0].uuid == "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f"
    assert parsed("No devices were found\n") == ()


@pytest.mark.parametrize(
    ("visible", "left"),
    [(None, "abc"), ("", ""), ("1", "b"), ("2,0", "ca"), ("GPU-c", "c"), ("GPU-x,7", "")],
)
def test_cuda_visible_devices_leaves_some(
    visible: str | None, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = installed(WorkerSettings(simulated_gpus="GPU-a,GPU-b, GPU-c"))
    assert [gpu.uuid for gpu in found] == [f"GPU-{letter}" for letter in left]
    assert [gpu.key for gpu in found] == [gpu.uuid for gpu in found]


@pytest.mark.parametrize(
    ("visible", "told", "left"),
    [(None, 2, ["0", "1"]), ("5,7", 2, ["5", "7"]), ("", 2, []), (None, 0, [])],
)
def test_without_nvidia_smi_gpus_are_numbers_of_this_host(
    visible: str | None, told: int, left: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus.shutil, "which", lambda _name: None)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = installed(WorkerSettings(gpus=told))
    assert [gpu.uuid for gpu in found] == left
    assert all(gpu.key.endswith(f"-{gpu.uuid}") and len(gpu.key) > 2 for gpu in found)


class TestNvidiaSmi:
    @pytest.fixture
    def answers(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
        """The script that stands for nvidia-smi."""
        script = tmp_path / "nvidia-smi"
        script.touch(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        gpus._listed_by_nvidia.cache_clear()
        yield script
        gpus._listed_by_nvidia.cache_clear()

    def test_is_asked_once(self, answers: Path) -> None:
        answers.write_text(f"#!/bin/sh\n[ $1 = -L ] && echo '{LISTED}' || echo '{MEMORY}'\n")
        found = installed(WorkerSettings())
        assert [gpu.uuid[:4] for gpu in found] == ["GPU-", "MIG-", "MIG-"]
        answers.write_text("#!/bin/sh\nexit 1\n")
        assert installed(WorkerSettings()) == found

    def test_that_fails_is_an_error_only_where_there_should_be_gpus(self, answers: Path) -> None:
        answers.write_text("#!/bin/sh\necho 'GPU is lost'\nexit 15\n")
        assert installed(WorkerSettings()) == ()
        with pytest.raises(OSError, match="MIXLAB_GPUS"):
            installed(WorkerSettings(gpus=1))
        answers.write_text(f"#!/bin/sh\necho '{LISTED}'\n")
        assert len(installed(WorkerSettings(gpus=1))) == 3  # a failure is not remembered

    def test_that_hangs_is_an_error(self, answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gpus, "SECONDS", 0.2)
        answers.write_text("#!/bin/sh\nexec sleep 60\n")
        with pytest.raises(OSError, match="does not answer"):
            installed(WorkerSettings())


@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="no GPU here")
@pytest.mark.slow
def test_cuda_takes_the_uuids_of_real_gpus() -> None:
    found = installed(WorkerSettings())
    if not found:
        pytest.skip("no GPU here")
    script = "import torch; print(torch.cuda.device_count(), torch.cuda.get_device_name())"
    for gpu in found:
        told = subprocess.run(
            [sys.executable, "-c", script], env=os.environ | {gpus.VISIBLE: gpu.uuid},
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert told.startswith("1 ")
        assert gpu.memory_bytes is None or gpu.memory_bytes > 2**30

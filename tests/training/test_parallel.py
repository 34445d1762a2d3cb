"""Many ranks train the run that one would, and go on from what any number of ranks wrote."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from mixlab.corpora.shards import TokenisedCorpus
from mixlab.errors import InvalidRecipe
from mixlab.training.checkpoints.folders import LOCK
from mixlab.training.parallel import World
from tests.training import ranks

# Three launches; most of it is each process importing torch.
pytestmark = pytest.mark.timeout(400)

CPU = torch.device("cpu")
ACCURACY_NATS = 1e-5


@given(sequences=st.integers(1, 60), size=st.integers(1, 9), micro=st.integers(1, 9))
def test_ranks_share_the_rows_evenly(sequences: int, size: int, micro: int) -> None:
    worlds = [World(rank, size, CPU) for rank in range(size)]
    if sequences < size:
        with pytest.raises(InvalidRecipe, match=f"{sequences} sequences .* {size} processes"):
            worlds[0].parts(sequences, micro)
        return
    shares = [world.parts(sequences, micro) for world in worlds]
    rows = [len(range(sequences)[part]) for parts in shares for part in parts]
    assert sum(rows) == sequences
    assert min(rows) > 0
    assert len({len(parts) for parts in shares}) == 1, "all call the gradients' exchange as often"
    assert all(a.stop == b.start for parts in shares for a, b in pairwise(parts))
    assert [parts[0].start for parts in shares][1:] == [parts[-1].stop for parts in shares][:-1]
    totals = [parts[-1].stop - parts[0].start for parts in shares]
    assert max(totals) - min(totals) <= 1
    uneven = sequences % size != 0
    assert max(rows) <= micro + (1 if micro == 1 and uneven else 0)


def test_one_process_without_torchrun_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with World.of_environment() as world:
        assert (world.rank, world.size, world.main) == (0, 1, True)
        assert world.parts(5, 2) == [slice(0, 2), slice(2, 4), slice(4, 5)]
        assert world.together(lambda: "here") == ["here"]


def test_half_an_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    for name in ("WORLD_SIZE", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InvalidRecipe, match=r"WORLD_SIZE .* not; start several .* torchrun"):
        World.of_environment()


def torchrun(size: int, *arguments: str) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        "--nproc-per-node", str(size), ranks.__file__, *arguments,
    ]  # fmt: skip
    # Quiet: torchrun tells all about a worker's end.
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def launched(size: int, folder: Path, corpus: TokenisedCorpus, jobs: list[dict[str, Any]]) -> None:
    """Do the jobs; a first rank that says it waits for SIGTERM gets one."""
    process = torchrun(size, str(corpus.folder), str(folder), json.dumps(jobs))
    runs = folder / "runs"
    if any(job.get("waits_for_sigterm") for job in jobs):
        while process.poll() is None and not (runs.exists() and runs.read_text()):
            time.sleep(0.05)
        os.kill(int(runs.read_text()), signal.SIGTERM)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, corpus: TokenisedCorpus) -> Path:
    """Every run that the tests below compare, and its losses, by name."""
    folder = tmp_path_factory.mktemp("ranks")
    halfway = {"stop_after": 6}
    few = {"micro_tokens": 64}  # 2 rows at a time, so that gradients accumulate
    alone = World.alone(CPU)
    ranks.run(alone, corpus, folder, {"name": "whole"})
    recomputed = {"recipe": {"activation_checkpointing": True}}
    half = {"recipe": {"precision": "bfloat16", "moments": "bfloat16"}}
    ranks.run(alone, corpus, folder, {"name": "whole-bfloat16", **half})
    ranks.run(alone, corpus, folder, {"name": "by-one", **halfway})
    often = {"checkpoint_seconds": 0.0}
    launched(4, folder, corpus, [{"name": "by-four", "sharding": "shard", **halfway, **often}])
    for name in RESUMED:
        shutil.copytree(folder / name.split(",")[0], folder / name)
    # The last one was waited for; the one before was copied, and written by a thread.
    shutil.rmtree(folder / COPIED / "checkpoints" / "step-000000006")
    launched(2, folder, corpus, [
        {"name": "replicated-2", "sharding": "replicate", **few},
        {"name": "sharded-2", "sharding": "shard", **few},
        {"name": "sharded-bfloat16", "sharding": "shard", **half},
        {"name": "by-one, sharded by two", "sharding": "shard"},
        {"name": "by-four, sharded by two", "sharding": "shard"},
        {"name": "by-four, replicated by two", "sharding": "replicate"},
        {"name": "terminated", "sharding": "shard", "steps": 100_000, "waits_for_sigterm": True},
    ])  # fmt: skip
    launched(3, folder, corpus, [
        {"name": "replicated-3", "sharding": "replicate", **few},
        {"name": "sharded-3", "sharding": "shard", **few, **recomputed},
        {"name": COPIED, "sharding": "shard"},
    ])  # fmt: skip
    ranks.run(alone, corpus, folder, {"name": "by-four, alone"})
    return folder


COPIED = "by-four, sharded by three"
RESUMED = (
    "by-one, sharded by two",
    "by-four, sharded by two",
    "by-four, replicated by two",
    COPIED,
    "by-four, alone",
)


def found_in(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return found


def weights_of(folder: Path, name: str) -> torch.Tensor:
    with safe_open(folder / name / "weights.safetensors", framework="pt") as file:
        return torch.cat([file.get_tensor(key).flatten() for key in sorted(file.keys())])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["replicated-2", "sharded-2", "replicated-3", "sharded-3"])
def test_losses_are_those_of_one_process(folder: Path, name: str) -> None:
    """With accumulated gradients, and 8 and 11 sequences, which neither 2 nor 3 divide evenly."""
    one, many = found_in(folder, "whole"), found_in(folder, name)
    assert len(many["training"]) == ranks.STEPS
    np.testing.assert_allclose(many["training"], one["training"], rtol=0, atol=ACCURACY_NATS)
    np.testing.assert_allclose(many["validation"], one["validation"], rtol=0, atol=ACCURACY_NATS)
    assert one["training"][-1] < one["training"][0] - 0.5, (
        "it learns, so that equality says something"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", RESUMED)
def test_a_checkpoint_goes_on_with_any_number_of_ranks(folder: Path, name: str) -> None:
    assert found_in(folder, name.split(",")[0])["ended"] == "stopped"
    one, resumed = found_in(folder, "whole"), found_in(folder, name)
    left = len(resumed["training"])
    assert left > 6 if name == COPIED else left == 6
    np.testing.assert_allclose(
        resumed["training"], one["training"][-left:], rtol=0, atol=ACCURACY_NATS
    )
    np.testing.assert_allclose(resumed["validation"], one["validation"], rtol=0, atol=ACCURACY_NATS)


@pytest.mark.slow
def test_final_weights_are_whole_and_those_of_one_process(folder: Path) -> None:
    one = weights_of(folder, "whole")
    for name in ("replicated-3", "sharded-3", *RESUMED):
        torch.testing.assert_close(weights_of(folder, name), one, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_sharded_bfloat16_learns_as_one_process_does(folder: Path) -> None:
    """Gathered in bfloat16, reduced in float32; rounding differs in its order."""
    one, many = found_in(folder, "whole-bfloat16"), found_in(folder, "sharded-bfloat16")
    assert one["stream"] == many["stream"] == ["torch.float32"], "what blocks hand on"
    np.testing.assert_allclose(many["validation"], one["validation"], rtol=0, atol=0.02)


@pytest.mark.slow
def test_sigterm_to_one_rank_stops_all_with_a_checkpoint(folder: Path) -> None:
    """And with status 0: `launched` insists."""
    assert found_in(folder, "terminated")["ended"] == "stopped"
    kept = folder / "terminated" / "checkpoints"
    assert [
        json.loads((one / "run.json").read_text())["record"]["step"] for one in kept.glob("step-*")
    ]
    assert [left.name for left in kept.glob(".*")] == [LOCK]


@pytest.mark.slow
def test_ranks_write_their_own_parts(folder: Path) -> None:
    by_four = next((folder / "by-four" / "checkpoints").glob("step-*"))
    shards = sorted(by_four.glob("*.safetensors"))
    assert [file.name[:11] for file in shards] == [f"shard-0000{rank}" for rank in (1, 2, 3, 4)]
    alone = next((folder / "by-one" / "checkpoints").glob("step-*"))
    assert {file.suffix for file in (*by_four.iterdir(), *alone.iterdir())} == {
        ".safetensors",
        ".json",
    }


FROZEN = """
import os, signal, sys
from datetime import timedelta
from pathlib import Path
from torch import nn, optim
from mixlab.training.checkpoints import Checkpoints
from mixlab.training.parallel import World

with World.of_environment(timeout=timedelta(seconds=2)) as world:
    module = nn.Linear(5, 3)
    with Checkpoints(Path(sys.argv[1]), {}, world) as kept:
        kept.save(1, module, optim.AdamW(module.parameters()), {})
        kept.wait()
        assert not world.any(False)
        if not world.main:
            os.kill(os.getpid(), signal.SIGSTOP)
        world.any(False)
"""


@pytest.mark.slow
def test_a_rank_that_hangs_ends_the_others(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    first, hanging = (
        subprocess.Popen(
            [sys.executable, "-c", FROZEN, str(tmp_path)],
            env=os.environ | common | {"RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    )
    try:
        _, said = first.communicate(timeout=200)
    finally:
        hanging.kill()
        hanging.communicate()
    assert first.returncode not in (0, None)
    assert "Timed out" in said
    assert (tmp_path / "checkpoints" / "step-000000001" / "run.json").exists()

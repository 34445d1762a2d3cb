"""Checkpoints are whole or not there, proved before they are used, and never run code."""

import json
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mixlab.errors import InvalidRecipe, MissingFile, NotWritten, TruncatedFile
from mixlab.training.checkpoints import Checkpoints, keeping, states
from mixlab.training.checkpoints.folders import LOCK
from mixlab.training.parallel import World
from mixlab.training.weights import save_weights

WORLD = World.alone(torch.device("cpu"))
IDENTITY = {"recipe": {"name": "small"}, "seed": 1}


class Run:
    """Two weights that take AdamW steps by random gradients."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(seed)
        self.module = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3, bias=False)).to(dtype)
        self.optimiser = torch.optim.AdamW(self.module.parameters(), lr=0.1, fused=True)

    def update(self) -> None:
        for weight in self.module.parameters():
            weight.grad = torch.randn_like(weight)
        self.optimiser.step()

    def state(self) -> list[torch.Tensor]:
        weights = list(self.module.parameters())
        moments = [v for w in weights for _, v in sorted(self.optimiser.state[w].items())]
        return [value.detach().clone() for value in (*weights, *moments)]


def checkpoints(folder: Path, **options: Any) -> Checkpoints:
    return Checkpoints(folder, options.pop("identity", IDENTITY), WORLD, **options)


def saved(folder: Path, steps: list[int], **options: Any) -> Run:
    """A run with checkpoints after these updates."""
    run = Run()
    with checkpoints(folder, **options) as kept:
        for step in range(1, max(steps) + 1):
            run.update()
            if step in steps:
                kept.save(step, run.module, run.optimiser, {"step": step})
    return run


def resumed(folder: Path, **options: Any) -> tuple[Run, dict[str, Any] | None]:
    run = Run(seed=99)
    with checkpoints(folder, **options) as kept:
        return run, kept.resume(run.module, run.optimiser)


def equal(one: Run, other: Run) -> bool:
    pairs = zip(one.state(), other.state(), strict=True)
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def newest(folder: Path) -> Path:
    return max((folder / "checkpoints").iterdir())


def kept_in(root: Path) -> list[str]:
    """All that lies there, but the file that is locked while a run goes on."""
    return sorted(entry.name for entry in root.iterdir() if entry.name != LOCK)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_loaded_is_what_was_saved_to_the_last_bit(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    run = Run(dtype=dtype)
    run.update()
    record = {"step": 1, "losses": [0.1, 1e-300], "skipped": [], "name": "δ"}
    with checkpoints(tmp_path) as kept:
        kept.save(1, run.module, run.optimiser, record)
    drawn = torch.rand(3)
    other = Run(seed=99, dtype=dtype)
    with checkpoints(tmp_path) as kept:
        assert kept.resume(other.module, other.optimiser) == record
    assert equal(run, other)
    assert torch.equal(torch.rand(3), drawn), "the random state goes on where it was"
    run.update(), other.update()  # fmt: skip
    assert [state.shape for state in run.state()] == [state.shape for state in other.state()]


def test_a_folder_without_a_checkpoint_resumes_nothing(tmp_path: Path) -> None:
    run, record = resumed(tmp_path / "new")
    assert record is None
    assert equal(run, Run(seed=99))


def test_training_may_go_on_while_a_copy_is_written(tmp_path: Path) -> None:
    run = Run()
    for step in (1, 2, 3):
        run.update()
        then = run.state()
        record = {"losses": [1.0]}
        with checkpoints(tmp_path) as kept:
            kept.save(step, run.module, run.optimiser, record)
            record["losses"].append(2.0)
            for weight in run.module.parameters():
                weight.data.zero_()
                run.optimiser.state[weight]["exp_avg"].fill_(7.0)
        again, found = resumed(tmp_path)
        assert found == {"losses": [1.0]}
        assert all(torch.equal(a, b) for a, b in zip(then, again.state(), strict=True))


def test_a_save_waits_for_the_one_before(tmp_path: Path) -> None:
    run = Run()
    run.update()
    with checkpoints(tmp_path) as kept:
        for step in range(1, 6):
            kept.save(step, run.module, run.optimiser, {})
            assert set(range(max(1, step - 2), step)) <= set(kept.steps())
        kept.save(6, run.module, run.optimiser, {}, wait=True)
        assert kept.steps() == [5, 6]


def test_without_memory_for_a_copy_it_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "free_bytes", lambda: 100)
    run = Run()
    with checkpoints(tmp_path) as kept:
        kept.save(1, run.module, run.optimiser, {})
        assert kept.steps() == [1]


def test_a_large_state_is_cut_into_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "FILE_BYTES", 200)
    run = saved(tmp_path, [1])
    assert len(list(newest(tmp_path).glob("*.safetensors"))) > 2
    again, _ = resumed(tmp_path)
    assert equal(run, again)


def test_nothing_is_pickled(tmp_path: Path) -> None:
    saved(tmp_path, [1])
    for file in newest(tmp_path).iterdir():
        start = file.read_bytes()[:8]
        assert not start.startswith((b"PK", b"\x80")), "a zip or a pickle"
        if file.name == "run.json":
            json.loads(file.read_text())
        else:
            assert file.suffix == ".safetensors"
            length = int.from_bytes(start, "little")
            json.loads(file.read_bytes()[8 : 8 + length])


@given(
    steps=st.sets(st.integers(1, 12), min_size=1, max_size=6),
    keep_last=st.integers(1, 3),
    milestones=st.sets(st.integers(1, 12), max_size=3),
)
@settings(max_examples=12, deadline=None)
def test_the_last_and_the_milestones_are_kept(
    tmp_path_factory: pytest.TempPathFactory, steps: set[int], keep_last: int, milestones: set[int]
) -> None:
    folder = tmp_path_factory.mktemp("kept")
    saved(folder, sorted(steps), keep_last=keep_last, milestones=milestones)
    expected = set(sorted(steps)[-keep_last:]) | (steps & milestones)
    names = set(kept_in(folder / "checkpoints"))
    assert names == {f"step-{step:09d}" for step in expected}


def test_none_kept_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRecipe, match="At least 1 checkpoint"):
        checkpoints(tmp_path, keep_last=0)


def test_any_kept_one_can_be_loaded_by_its_step(tmp_path: Path) -> None:
    first = saved(tmp_path / "first", [1])
    saved(tmp_path / "both", [1, 2])
    run = Run(seed=99)
    with checkpoints(tmp_path / "both") as kept:
        assert kept.load(1, run.module, run.optimiser) == {"step": 1}
        assert equal(run, first)
        with pytest.raises(MissingFile, match=r"after the updates \[1, 2\]"):
            kept.load(3, run.module, run.optimiser)


def test_a_branch_reads_the_weights_of_another_run(tmp_path: Path) -> None:
    first = saved(tmp_path, [1])
    run = Run(seed=99)
    Checkpoints(tmp_path, None, WORLD).load(1, run.module)
    assert torch.equal(run.module[0].weight, first.module[0].weight)
    assert not run.optimiser.state


def test_after_a_roll_back_the_line_that_was_left_is_gone(tmp_path: Path) -> None:
    saved(tmp_path, [1, 2, 3], milestones={2}, keep_last=3)
    with checkpoints(tmp_path) as kept:
        kept.drop_after(1)
        assert kept.steps() == [1]
    assert resumed(tmp_path)[1] == {"step": 1}


def test_a_step_that_is_saved_again_replaces_the_former(tmp_path: Path) -> None:
    saved(tmp_path, [2])
    run = Run(seed=5)
    with checkpoints(tmp_path) as kept:
        kept.save(2, run.module, run.optimiser, {"again": True}, wait=True)
    assert resumed(tmp_path)[1] == {"again": True}
    assert len(kept_in(tmp_path / "checkpoints")) == 1


def test_another_runs_folder_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, [1])
    other = {"recipe": {"name": "other"}, "seed": 2}
    with pytest.raises(InvalidRecipe, match="run with another recipe and seed; give each"):
        resumed(tmp_path, identity=other)


def test_a_folder_of_the_former_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.safetensors").write_bytes(b"anything")
    with pytest.raises(InvalidRecipe, match=r"earlier version .* delete it to start over"):
        resumed(tmp_path)


def truncate(file: Path, at: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(at * (len(content) - 1))])


def flip(file: Path, at: float) -> None:
    content = bytearray(file.read_bytes())
    content[int(at * (len(content) - 1))] ^= 0x10
    file.write_bytes(content)


def remove(file: Path, at: float) -> None:
    file.unlink()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    saved(folder, [1, 2])
    return folder


@given(
    damage=st.sampled_from([truncate, flip, remove]),
    suffix=st.sampled_from([".json", ".safetensors"]),
    at=st.floats(0, 1),
)
@settings(max_examples=40, deadline=None)
def test_any_damage_is_found_named_and_overcome(
    two: Path,
    tmp_path_factory: pytest.TempPathFactory,
    damage: Callable[[Path, float], None],
    suffix: str,
    at: float,
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    shutil.copytree(two, folder, dirs_exist_ok=True)
    file = next(newest(folder).glob(f"*{suffix}"))
    damage(file, at)
    with pytest.raises(TruncatedFile) as raised:
        resumed(folder)
    way_out = f"delete the folder {newest(folder)} to go on from step 1."
    assert str(file) in str(raised.value)
    assert str(raised.value).endswith(way_out)
    shutil.rmtree(newest(folder))
    assert resumed(folder)[1] == {"step": 1}


def test_tensors_of_strangers_are_not_read(tmp_path: Path) -> None:
    saved(tmp_path, [1])
    file = next(newest(tmp_path).glob("*.safetensors"))
    shutil.copy(file, file.with_name("shard-00009-more.safetensors"))
    with pytest.raises(TruncatedFile, match="shard-00009-more"):
        resumed(tmp_path)


def test_leftovers_of_a_killed_writer_are_removed_or_put_back(tmp_path: Path) -> None:
    saved(tmp_path, [1, 2])
    root = tmp_path / "checkpoints"
    for leftover in (".writing-step-000000003", ".dropped-step-000000000"):
        (root / leftover).mkdir()
        (root / leftover / "shard").write_bytes(b"half")
    (root / "step-000000002").rename(root / ".replaced-step-000000002")
    shutil.copytree(root / "step-000000001", root / ".replaced-step-000000001")
    assert resumed(tmp_path)[1] == {"step": 2}
    assert kept_in(root) == ["step-000000001", "step-000000002"]


@contextmanager
def small_files() -> Iterator[None]:
    """No file of more than 300 bytes can be written; pytest's own log, after a test, can."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_failed_write_is_told_by_the_next_call_and_harms_nothing(tmp_path: Path) -> None:
    run = saved(tmp_path, [1])
    kept = checkpoints(tmp_path)
    with small_files():
        kept.save(2, run.module, run.optimiser, {})
        with pytest.raises(NotWritten, match=r"after step 2 .*File too large.* step 1 is intact"):
            kept.save(3, run.module, run.optimiser, {})
        kept.close()
        with pytest.raises(NotWritten, match="after step 4"):
            kept.save(4, run.module, run.optimiser, {}, wait=True)
    assert kept_in(tmp_path / "checkpoints") == ["step-000000001"]
    assert resumed(tmp_path)[1] == {"step": 1}


def test_final_weights_that_the_disk_does_not_take_are_told(tmp_path: Path) -> None:
    told = r"weights.safetensors couldn't be written \(.*too large"
    with small_files(), pytest.raises(NotWritten, match=told):
        save_weights(tmp_path, Run().module, {}, WORLD)

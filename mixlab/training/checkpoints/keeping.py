"""The checkpoints of one run: written while it goes on, found again when it starts.

    save    wait for the save before; copy the tensors; a thread writes, hashes, renames, prunes
    resume  remove leftovers; take the newest; verify every file; fill weights and optimiser

Training waits for the copy alone. There is at most one save in flight, and what went wrong in
it is raised by the next call. The newest `keep_last` and all milestones are kept.
Limits: where memory doesn't hold the copy, the save waits until it is written.
"""

import json
import logging
import os
import shutil
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from mixlab.errors import InvalidRecipe, MissingFile, NotWritten
from mixlab.training.checkpoints.folders import (
    WRITING,
    Entries,
    check_identity,
    describe,
    drop,
    folder_name,
    locked,
    publish,
    read_record,
    remove_leftovers,
    steps_in,
    verify,
)
from mixlab.training.checkpoints.states import read_tensors, tensors_of, write_tensors
from mixlab.training.memory import free_bytes
from mixlab.training.parallel import World

FOLDER = "checkpoints"
FORMER = "checkpoint.safetensors"  # where mixlab 0.1 kept its only one
ENDING_SECONDS = 60  # that a save in flight gets when the run ends by an error
SPARE_SHARE = 1.1  # of free memory over a copy's size, for it to be made

log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints in a run's folder; every rank of the run has one of these.

    `identity` says which run it is: recipe, mixture, seed, corpus. Without it any run's are read,
    as when a branch starts from another run. Close it, or use it as a context: a save that is in
    flight is finished then. As a context it is the only one of its folder on this machine.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any] | None,
        world: World,
        *,
        keep_last: int = 2,
        milestones: Collection[int] = frozenset(),
    ) -> None:
        if keep_last < 1:
            raise InvalidRecipe(f"At least 1 checkpoint must be kept, not {keep_last}.")
        self.folder, self.root = folder, folder / FOLDER
        self.identity, self.world = identity, world
        self.keep_last, self.milestones = keep_last, frozenset(milestones)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._stager: Any = None
        self._lock: int | None = None

    def __enter__(self) -> Self:
        self.world.together(self._take)
        return self

    def _take(self) -> None:
        if self.world.main:
            self._lock = locked(self.root)

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        try:
            self._end(failed=kind is not None)
        finally:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def _end(self, *, failed: bool) -> None:
        if not failed:
            self.close()
            return
        # Another rank may be the reason, and never answer.
        seconds = None if self.world.size == 1 else ENDING_SECONDS
        if self._thread is not None:
            self._thread.join(seconds)
        if self._error is not None:
            log.error("the save in flight when the run ended failed too", exc_info=self._error)

    @property
    def busy(self) -> bool:
        """Whether a save is in flight, for which the next one would wait."""
        return self._thread is not None and self._thread.is_alive()

    def steps(self) -> list[int]:
        """The updates after which there is a checkpoint, rising."""
        return steps_in(self.root)

    def check(self) -> None:
        """Tidy the folder. Raises InvalidRecipe where its newest checkpoint is another run's, and
        TruncatedFile where that can't be told."""
        self.wait()
        newest = self.world.together(self._newest)[0]
        if newest is not None:
            self.world.together(lambda: self._own(newest))

    def resume(self, module: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any] | None:
        """Go on from the newest checkpoint: fill both, and return its record; None without one.

        Raises InvalidRecipe for another run's, and TruncatedFile for a damaged one.
        """
        self.wait()
        newest = self.world.together(self._newest)[0]
        return None if newest is None else self.load(newest, module, optimiser)

    def load(
        self, step: int, module: nn.Module, optimiser: torch.optim.Optimizer | None = None
    ) -> dict[str, Any]:
        """Fill both from the checkpoint after that update, and return its record.

        Without an optimiser only the weights are read. Raises MissingFile where there is none,
        and what `resume` raises.
        """
        self.wait()
        # The first rank's step: another host's view of a shared folder may be of a moment ago.
        step = self.world.together(lambda: step)[0]
        content = self.world.together(lambda: self._verified(step))[0]
        read_tensors(self.root / folder_name(step), module, optimiser, self.world)
        record: dict[str, Any] = content["record"]
        return record

    def save(
        self,
        step: int,
        module: nn.Module,
        optimiser: torch.optim.Optimizer,
        record: Mapping[str, Any],
        *,
        wait: bool = False,
    ) -> None:
        """Make a checkpoint after that update, on every rank; with `wait` it is there on return.

        Of the record, which is JSON-ready, the first rank's counts. Raises NotWritten, also for
        an earlier save.
        """
        self.wait()
        # A copy of it too, lists and all: the run goes on changing its own.
        record = json.loads(json.dumps(record))
        tensors = tensors_of(module, optimiser, self.world.device)
        if wait or not self._has_room(tensors):
            self._write(step, tensors, record)
            return
        staged = self._copied(tensors)
        arguments = (step, staged, record)
        # A daemon: what is not finished when the process ends is a leftover, and no harm.
        self._thread = threading.Thread(target=self._write_aside, args=arguments, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until nothing is in flight. Raises NotWritten where that save failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def close(self) -> None:
        """Finish what is in flight, and give the copy's memory back."""
        try:
            self.wait()
        finally:
            if self._stager is not None:
                self._stager.close()
                self._stager = None

    def drop_after(self, step: int) -> None:
        """Remove the checkpoints after that update, milestones too: the run has rolled back."""
        self.wait()
        self.world.together(lambda: self._drop([s for s in self.steps() if s > step]))

    def _newest(self) -> int | None:
        """The first rank's view of the folder, tidied."""
        if not self.world.main:
            return None
        if (self.folder / FORMER).exists():
            raise InvalidRecipe(
                f"{self.folder / FORMER} is of an earlier version of mixlab, which this one can't "
                "go on from; delete it to start over."
            )
        remove_leftovers(self.root)
        return max(self.steps(), default=None)

    def _own(self, step: int) -> dict[str, Any]:
        """The contents of run.json, which is this run's."""
        folder = self.root / folder_name(step)
        if not folder.is_dir():
            raise MissingFile(
                f"There is no checkpoint {folder}; there are those after the updates "
                f"{self.steps()}. Every host of a run must see the same folder."
            )
        content = read_record(folder, self._way_out(step))
        if self.identity is not None:
            check_identity(folder, content["identity"], self.identity)
        return content

    def _verified(self, step: int) -> dict[str, Any]:
        """The contents of run.json, with this rank's share of the files looked through."""
        folder, content = self.root / folder_name(step), self._own(step)
        files: Entries = content["files"]
        mine = sorted(files)[self.world.rank :: self.world.size]
        verify(folder, files, mine, self._way_out(step))
        return content

    def _way_out(self, step: int) -> str:
        before = max((s for s in self.steps() if s < step), default=None)
        on = "to start over" if before is None else f"to go on from step {before}"
        return f"delete the folder {self.root / folder_name(step)} {on}"

    def _has_room(self, tensors: Mapping[str, Tensor]) -> bool:
        if self._stager is not None:
            return True
        needed = sum(_local(t).numel() * t.element_size() for t in tensors.values())
        return free_bytes() > SPARE_SHARE * needed

    def _copied(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors on the CPU, in memory that is used again by the next save."""
        if self._stager is None:
            # Imported at the first checkpoint: it takes a second.
            from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

            cuda = self.world.device.type == "cuda"
            self._stager = DefaultStager(
                StagingOptions(
                    use_pinned_memory=cuda,
                    use_shared_memory=False,
                    use_async_staging=False,  # the next update would overwrite what it copies
                    use_non_blocking_copy=cuda,
                )
            )
        copied: dict[str, Tensor] = self._stager.stage(tensors)
        return copied

    def _write_aside(self, *arguments: Any) -> None:
        try:
            if self.world.device.type == "cuda":
                # A thread begins at the first device, where each rank would open a context.
                torch.cuda.set_device(self.world.device)
            self._write(*arguments)
        except BaseException as error:  # noqa: BLE001 - raised by the next call
            self._error = error

    def _write(self, step: int, tensors: dict[str, Tensor], record: Mapping[str, Any]) -> None:
        aside = self.root / f"{WRITING}{folder_name(step)}"
        try:
            self._write_together(aside, step, tensors, record)
        except Exception as error:
            if self.world.main:
                shutil.rmtree(aside, ignore_errors=True)
            if isinstance(error, NotWritten):
                raise
            raise self._not_written(step, error) from error

    def _write_together(
        self, aside: Path, step: int, tensors: dict[str, Tensor], record: Mapping[str, Any]
    ) -> None:
        world, folder = self.world, self.root / folder_name(step)
        world.together(lambda: self._try(step, lambda: _make_anew(aside) if world.main else None))
        write_tensors(aside, tensors, world)
        own = f"shard-{world.rank + 1:05d}-*"  # as DCP names the files of a rank
        found = world.together(lambda: self._try(step, lambda: describe(aside, own)))
        files = {name: told for entries in found for name, told in entries.items()}

        def complete() -> None:
            if world.main:
                publish(aside, folder, record, self.identity or {}, files)
                self._drop(self._superfluous())

        world.together(lambda: self._try(step, complete))

    def _try(self, step: int, action: Any) -> Any:
        """What the action gives; an error of the disk is NotWritten, which all ranks can raise."""
        try:
            return action()
        except OSError as error:
            raise self._not_written(step, error) from error

    def _not_written(self, step: int, error: Exception) -> NotWritten:
        kept = max(self.steps(), default=None)
        return NotWritten(
            f"The checkpoint after step {step} couldn't be written to {self.root} "
            f"({_reason(error)}); "
            + ("there is none yet" if kept is None else f"the one after step {kept} is intact")
            + ". Make room or name another folder, and start the run again."
        )

    def _superfluous(self) -> list[int]:
        steps = self.steps()
        return [s for s in steps[: -self.keep_last] if s not in self.milestones]

    def _drop(self, steps: list[int]) -> None:
        if self.world.main:
            for step in steps:
                drop(self.root / folder_name(step))


def _make_anew(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that ranks share."""
    to_local = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__

"""One process or many: who computes which rows, and how their gradients become one.

    gradient of a step = sum over ranks and micro-batches of d (sum of losses) / d weights

Each rank holds the gradient of its own rows; DDP ("replicate": every rank has all weights) and
FSDP2 ("shard": every rank has its part of weights, gradients and AdamW's state) add them up.
Both are told to sum where they would average, so that a batch may be split unevenly, and the
result doesn't depend on the number of ranks but in the order of float32 additions.

Processes are started by torchrun, whose variables (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR,
MASTER_PORT) say who is who; without them a process is alone. CUDA devices talk by NCCL, CPUs by
gloo. A rank that dies closes its connections, which ends the others; one that hangs ends them
after `COLLECTIVE_TIMEOUT`. Sources: arXiv 2006.15704 (DDP), 2304.11277 (FSDP).
Limits: data parallelism only; a model whose one block exceeds a device needs another engine.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mixlab.errors import InvalidRecipe, MixlabError
from mixlab.recipes import Recipe
from mixlab.training.memory import needed_memory
from mixlab.training.placement import chosen_device, in_bfloat16

Sharding = Literal["auto", "replicate", "shard"]
T = TypeVar("T")

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# Longer than the slowest rank's compiling and evaluating, short enough not to waste a night.
COLLECTIVE_TIMEOUT = timedelta(minutes=10)
FILES_TIMEOUT = timedelta(minutes=30)  # writing a checkpoint waits for the slowest disk
COMFORTABLE_SHARE = 0.5  # of a device, for weights and their states; activations need the rest


@dataclass(frozen=True)
class World:
    """The processes of one run, seen from one of them; also the context in which they are joined.

    Leaving it ends the process group.
    """

    rank: int
    size: int
    device: torch.device
    sharding: Sharding = "auto"
    # A gloo group of its own, so that files are agreed on while gradients are under way.
    files: dist.ProcessGroup | None = None

    @classmethod
    def alone(cls, device: torch.device | None = None) -> Self:
        """This process by itself, on the given or the best device."""
        return cls(0, 1, device or chosen_device())

    @classmethod
    def of_environment(
        cls, *, sharding: Sharding = "auto", timeout: timedelta = COLLECTIVE_TIMEOUT
    ) -> Self:
        """Join the processes that torchrun started with this one; alone where it didn't.

        Raises InvalidRecipe for an incomplete environment, and for more processes than GPUs.
        """
        if "RANK" not in os.environ:
            return cls.alone()
        missing = [name for name in VARIABLES if name not in os.environ]
        if missing:
            raise InvalidRecipe(
                f"RANK is set but {' and '.join(missing)} not; start several processes with "
                "torchrun, or unset RANK to train in one."
            )
        device = _device_of(int(os.environ["LOCAL_RANK"]))
        bound = device if device.type == "cuda" else None
        # gloo besides NCCL, so that flags on the CPU don't wait for the GPU.
        backend = "gloo" if bound is None else "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, timeout=timeout, device_id=bound)
        files = dist.new_group(backend="gloo", timeout=max(timeout, FILES_TIMEOUT))
        return cls(dist.get_rank(), dist.get_world_size(), device, sharding, files)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        # After an error NCCL may wait for ranks that never come; the end of the process is enough.
        if self.files is not None and (kind is None or self.device.type == "cpu"):
            dist.destroy_process_group()

    @property
    def main(self) -> bool:
        """Whether this is the rank that reports and names what all have made."""
        return self.rank == 0

    def placed(self, module: nn.Module, recipe: Recipe) -> nn.Module:
        """The training loss, wrapped so that its gradients are those of all ranks together.

        `module` has a `.decoder`. Build the optimiser on what this returns.
        """
        if self.size == 1:
            return module
        if self.shards(recipe):
            return _sharded(module, self.device, recipe)
        return _replicated(module, self.device)

    def shards(self, recipe: Recipe) -> bool:
        """Whether the ranks share the weights, rather than have all of them each."""
        if self.size == 1:
            return False
        if self.sharding != "auto" or self.device.type == "cpu":
            return self.sharding == "shard"
        states = needed_memory(recipe, sequences=1, device=self.device).states
        free, _ = torch.cuda.mem_get_info(self.device)
        return self.any(states > COMFORTABLE_SHARE * free)

    def parts(self, sequences: int, micro: int) -> list[slice]:
        """This rank's rows of a step of so many sequences, one slice per micro-batch.

        Over the ranks every row comes once; all have as many parts, and none is empty. A part
        has at most `micro` rows, or one more where `micro` is 1 and ranks have unlike many rows.
        Raises InvalidRecipe for more ranks than sequences.
        """
        if sequences < self.size:
            raise InvalidRecipe(
                f"A step of {sequences} sequences can't be shared by {self.size} processes; "
                "start fewer, or take a larger batch."
            )
        least, most = sequences // self.size, -(-sequences // self.size)
        count = min(-(-most // micro), least)
        first, end = (_share(sequences, self.size, rank) for rank in (self.rank, self.rank + 1))
        bounds = [first + _share(end - first, count, part) for part in range(count + 1)]
        return [slice(a, b) for a, b in pairwise(bounds)]

    def accumulating(self, module: nn.Module, *, last: bool) -> AbstractContextManager[object]:
        """Surrounds forward and backward of a micro-batch; ranks only talk in the last one."""
        if isinstance(module, nn.parallel.DistributedDataParallel):
            return nullcontext() if last else module.no_sync()
        return nullcontext() if self.size == 1 else _gathering(module, last)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks of a tensor of the same shape, on its device."""
        if self.size == 1:
            return values
        total = values.detach().clone()
        dist.all_reduce(total)
        return total

    def any(self, flag: bool) -> bool:
        """Whether it is so on any rank: how a signal or a clock of one becomes known to all."""
        if self.size == 1:
            return flag
        return bool(self.sum(torch.tensor(int(flag))))

    def clip(self, weights: Iterable[Tensor], max_norm: float) -> Tensor:
        """Scale the gradients down to at most this norm of all together; the norm before it."""
        weights = list(weights)
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        norm = whole(nn.utils.get_total_norm(gradients))
        nn.utils.clip_grads_with_norm_(weights, max_norm, norm)
        return norm

    def together(self, action: Callable[[], T]) -> list[T]:
        """What the action gives on each rank, by rank; what one raises, all raise.

        Results are small plain values. Raises the first rank's MixlabError.
        """
        mine: T | None = None
        error: MixlabError | None = None
        try:
            mine = action()
        except MixlabError as problem:
            if self.size == 1:
                raise
            error = problem
        outcomes: list[Any] = [(mine, error)] * self.size
        if self.size > 1:
            dist.all_gather_object(outcomes, (mine, error), group=self.files)
        for _, raised in outcomes:
            if raised is not None:
                raise raised
        return [cast(T, result) for result, _ in outcomes]


def whole(tensor: Tensor) -> Tensor:
    """The full tensor of one that ranks share; every rank must ask for it. Others as they are."""
    full = getattr(tensor, "full_tensor", None)
    return tensor if full is None else full()


def _device_of(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise InvalidRecipe(
            f"Process {local_rank} of this host has no GPU of its own, there are "
            f"{torch.cuda.device_count()}; start torchrun with --nproc-per-node "
            f"{torch.cuda.device_count()}, or hide them with CUDA_VISIBLE_DEVICES=''."
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def _share(rows: int, parts: int, part: int) -> int:
    """The first row of a part, where parts differ by at most one row."""
    return part * (rows // parts) + min(part, rows % parts)


def _replicated(module: nn.Module, device: torch.device) -> nn.Module:
    wrapped = nn.parallel.DistributedDataParallel(
        module,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        forward_sync_buffers=False,  # rotations are constants
    )
    wrapped.register_comm_hook(None, _summed)
    return wrapped


def _summed(_: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
    """A bucket's sum over ranks, where DDP by itself would take the mean."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    future: torch.futures.Future[list[Tensor]] = work.get_future()
    return future.then(lambda done: done.value()[0])


def _sharded(module: nn.Module, device: torch.device, recipe: Recipe) -> nn.Module:
    # Here, because a run of one process needn't wait for this import.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    half = torch.bfloat16 if in_bfloat16(device, recipe.precision) else None
    # The stream between blocks stays float32, as it does without shards.
    policy = MixedPrecisionPolicy(
        param_dtype=half, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    decoder = cast(nn.Module, module.decoder)
    for block in cast(nn.ModuleList, decoder.blocks):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh, mp_policy=policy)
    for part in module.modules():
        if isinstance(part, FSDPModule):
            # A plain sum, which gloo and NCCL have both.
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
    return module


@contextmanager
def _gathering(module: Any, last: bool) -> Iterator[None]:
    module.set_requires_gradient_sync(last)
    module.set_is_last_backward(last)
    yield

"""Which GPUs this host has, by names that no other GPU has.

nvidia-smi tells the UUIDs of those that the container may see; CUDA takes a UUID wherever it takes
a number, and numbers differ between containers. A GPU that is cut up by MIG counts as its parts.
Limits: where nvidia-smi is missing and MIXLAB_GPUS says that there are GPUs, they have numbers
only, which hold on this host alone.
"""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from workers.settings import WorkerSettings

VISIBLE = "CUDA_VISIBLE_DEVICES"
SECONDS = 30  # a driver that is not kept loaded takes a few
_GPU = re.compile(r"GPU \d+: (.+) \(UUID: (\S+)\)")
_PART = re.compile(r"\s+MIG (\S+)\s+Device\s+\d+: \(UUID: (\S+)\)")


@dataclass(frozen=True)
class Gpu:
    """A GPU, or a part of one."""

    uuid: str  # as CUDA_VISIBLE_DEVICES takes it
    name: str = ""
    memory_bytes: int | None = None  # unknown of a part

    @property
    def key(self) -> str:
        """A file's name that stands for it, on all hosts that share a folder."""
        own = self.uuid if "-" in self.uuid else f"{socket.gethostname()}-{self.uuid}"
        return re.sub(r"[^\w.-]", "_", own)


def installed(settings: WorkerSettings) -> tuple[Gpu, ...]:
    """The GPUs that this process may use. Raises OSError where they are there but don't answer."""
    told = os.environ.get(VISIBLE)
    if settings.simulated_gpus:
        found = tuple(Gpu(name.strip(), "simulated") for name in settings.simulated_gpus.split(","))
    elif shutil.which("nvidia-smi") is not None:
        found = _listed_by_nvidia(expected=settings.gpus > 0)
    else:
        numbers = map(str, range(settings.gpus)) if told is None else told.split(",")
        return tuple(Gpu(number) for number in numbers if number and settings.gpus)
    return found if told is None else _chosen(found, told)


def _chosen(found: Sequence[Gpu], told: str) -> tuple[Gpu, ...]:
    """Those that CUDA_VISIBLE_DEVICES leaves: by number, or by the beginning of their UUID."""
    chosen: list[Gpu] = []
    for wanted in filter(None, map(str.strip, told.split(","))):
        if wanted.isdigit():
            chosen += found[int(wanted) :][:1]
        else:
            chosen += [gpu for gpu in found if gpu.uuid.startswith(wanted)][:1]
    return tuple(chosen)


@cache
def _listed_by_nvidia(*, expected: bool) -> tuple[Gpu, ...]:
    listed = _nvidia_smi("-L")
    if listed is not None:
        memory = _nvidia_smi("--query-gpu=uuid,memory.total", "--format=csv,noheader,nounits")
        return parsed(listed, memory or "")
    if expected:
        raise OSError("nvidia-smi fails, though MIXLAB_GPUS says that there are GPUs")
    return ()


def parsed(listed: str, memory: str = "") -> tuple[Gpu, ...]:
    """What `nvidia-smi -L` lists, with the MiB of "uuid, MiB" lines."""
    rows = [line.split(",") for line in memory.splitlines()]
    mebibytes = {row[0].strip(): row[1].strip() for row in rows if len(row) == 2}
    found: list[tuple[Gpu, list[Gpu]]] = []
    for line in listed.splitlines():
        if whole := _GPU.fullmatch(line):
            size = mebibytes.get(whole[2], "")
            bytes_ = int(size) << 20 if size.isdigit() else None
            found.append((Gpu(whole[2], whole[1], bytes_), []))
        elif part := _PART.fullmatch(line):
            gpu, parts = found[-1]
            parts.append(Gpu(part[2], f"{gpu.name} MIG {part[1]}"))
    return tuple(one for gpu, parts in found for one in (parts or [gpu]))


def _nvidia_smi(*arguments: str) -> str | None:
    command = ["nvidia-smi", *arguments]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as problem:
        raise OSError(f"nvidia-smi does not answer within {SECONDS} s") from problem
    return told.stdout if told.returncode == 0 else None

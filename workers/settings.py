"""What the workers and the sweep are told, over what they share with the API; `MIXLAB_*`."""

import os
import socket
from pathlib import Path

from pydantic import Field

from mixlab.corpora.reading.limits import ReadLimits
from mixlab.ledger import Ledger
from workers.contract import SharedSettings


class WorkerSettings(SharedSettings):
    """Leases, limits and threads. A lease must be much longer than a pause of the machine."""

    lease_seconds: float = Field(
        20.0, gt=0, description="A job not heard of for so long is taken back."
    )
    poll_seconds: float = Field(
        1.0, gt=0, description="How often a worker looks at its job's process and cancel flag."
    )
    kill_after_seconds: float = Field(
        3.0, ge=0, description="Between SIGTERM and SIGKILL for a process that must stop."
    )
    checkpoint_grace_seconds: float = Field(
        90.0,
        ge=0,
        description="The same for a training run, which makes a checkpoint first; whoever stops "
        "the worker must wait longer (compose: stop_grace_period).",
    )
    max_failures: int = Field(
        3, ge=1, description="Crashes and expired leases after which a job is failed."
    )
    max_retries: int = Field(
        6, ge=1, description="Attempts at a job that meets what may pass, such as a full disk."
    )
    ledger_patience_seconds: float = Field(
        60.0, ge=0, description="How long a worker tries to reach a database that is away."
    )
    retention_days: float = Field(
        30.0,
        ge=0,
        description="What ended longer ago loses its events, logs and proxy checkpoints; 0 keeps "
        "all.",
    )
    pulse_seconds: float = Field(
        5.0, gt=0, description="Between two signs of life of a worker, as its health check sees."
    )
    sweep_seconds: float = Field(2.0, gt=0, description="Between two sweeps.")
    resend_after_seconds: float = Field(
        30.0, gt=0, description="A job sent so long ago and not claimed is sent again."
    )
    threads: int | None = Field(
        None, ge=1, description="CPU threads of one training process; empty lets torch choose."
    )
    training_processes: int | None = Field(
        None,
        ge=1,
        description="Processes of one full-scale run, by torchrun; empty: one per GPU, as far as "
        "a step has tokens for them.",
    )
    max_file_bytes: int = Field(
        ReadLimits.max_file_bytes, gt=0, description="Bytes that a text file may unpack to."
    )
    max_ratio: float = Field(
        ReadLimits.max_ratio, gt=0, description="Unpacked bytes per stored byte of a text file."
    )
    max_document_bytes: int = Field(
        ReadLimits.max_document_bytes, gt=0, description="Bytes of one document."
    )
    read_memory_bytes: int | None = Field(
        None,
        ge=2**28,
        description="Memory of a process while it reads a corpus; empty: a quarter of the "
        "machine's, at least 4 GiB. Reading itself takes about 16 bytes a document.",
    )
    read_file_bytes: int = Field(
        64 * 2**30, ge=2**20, description="Largest file that reading a corpus may write."
    )
    read_seconds: float = Field(
        600.0, gt=0, description="CPU seconds that reading any corpus may take, beside its size's."
    )
    read_bytes_per_second: float = Field(
        20_000.0, gt=0, description="Stored bytes read per CPU second, at the slowest."
    )
    gpus: int = Field(
        0,
        ge=0,
        description="GPUs of a host. The cpu worker needs it too: above 0, proxy runs go out in as "
        "many groups and a GPU counts pairs. Which GPUs there are, nvidia-smi says.",
    )
    simulated_gpus: str = Field(
        "",
        description="Names such as GPU-a,GPU-b that count as this host's GPUs: for tests of how "
        "they are shared out, on machines without one.",
    )
    # Lets the tests put bodies that crash or hang behind the real broker, worker and ledger.
    job_module_prefix: str = Field("workers.jobs", description="Package of the job bodies.")

    @property
    def read_limits(self) -> ReadLimits:
        """What one text file may cost."""
        return ReadLimits(self.max_file_bytes, self.max_ratio, self.max_document_bytes)

    @property
    def sweep_file(self) -> Path:
        """What this host's sweep touches after each round, for its health check."""
        return self.home / f"sweep-{socket.gethostname()}.alive"

    @property
    def memory_to_read(self) -> int:
        """Bytes of memory that a process may have while it reads."""
        if self.read_memory_bytes is not None:
            return self.read_memory_bytes
        physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return max(4 * 2**30, physical // 4)

    @property
    def beat_seconds(self) -> float:
        """Between two heartbeats: at least three a lease."""
        return min(self.poll_seconds, self.lease_seconds / 3)


def open_ledger(settings: WorkerSettings, *, patient: bool = True) -> Ledger:
    """The ledger as workers use it: whoever asked for a job, and patient with its database.

    Not `patient`: for what comes back to it by itself a little later.
    """
    return Ledger.open(
        settings.database_url.get_secret_value(),
        migrate=False,
        patience_seconds=settings.ledger_patience_seconds if patient else 0.0,
    )

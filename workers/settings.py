"""What the workers and the sweep are told, over what they share with the API; `MIXLAB_*`."""

from pydantic import Field

from mixlab.corpora.reading.limits import ReadLimits
from workers.contract import SharedSettings


class WorkerSettings(SharedSettings):
    """Leases, limits and threads. A lease must be much longer than a pause of the machine."""

    lease_seconds: float = Field(
        30.0, gt=0, description="A job not heard of for so long is taken back."
    )
    poll_seconds: float = Field(
        1.0, gt=0, description="How often a worker looks at its job's process and cancel flag."
    )
    kill_after_seconds: float = Field(
        4.0, ge=0, description="Between SIGTERM and SIGKILL for a process that must stop."
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
    gpus: int = Field(
        0,
        ge=0,
        description="GPUs that the gpu worker's slots share; each slot sees one of them. The cpu "
        "worker needs it too: above 0, proxy runs go out in groups and the GPU counts pairs.",
    )
    # Lets the tests put bodies that crash or hang behind the real broker, worker and ledger.
    job_module_prefix: str = Field("workers.jobs", description="Package of the job bodies.")

    @property
    def read_limits(self) -> ReadLimits:
        """What one text file may cost."""
        return ReadLimits(self.max_file_bytes, self.max_ratio, self.max_document_bytes)

    @property
    def beat_seconds(self) -> float:
        """Between two heartbeats: at least three a lease."""
        return min(self.poll_seconds, self.lease_seconds / 3)

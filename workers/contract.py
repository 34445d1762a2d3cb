"""All that the API may know of the workers: task name, queues, shared settings.

Messages carry a job's id and nothing else; the ledger holds the rest.
"""

from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

TASK_RUN_JOB = "mixlab.run_job"  # args: (job_id,)
KEY_PREFIX = "mixlab:"  # of every key on the broker


class SharedSettings(BaseSettings):
    """What the API, the workers and the sweep must agree on; environment `MIXLAB_*`."""

    model_config = SettingsConfigDict(env_prefix="MIXLAB_", extra="ignore")

    home: Path = Field(Path(".mixlab"), description="Folder of shards, checkpoints and SQLite.")
    database_url: SecretStr = Field(
        SecretStr(""), description="SQLAlchemy URL; empty means SQLite in the home folder."
    )
    broker_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"), description="Redis-protocol broker."
    )
    data_roots: list[Path] = Field(
        default_factory=list, description="Folders that corpora may be read from."
    )
    remote_schemes: list[str] = Field(
        default_factory=list, description="fsspec schemes that corpora may use, such as s3."
    )

    @model_validator(mode="after")
    def _resolve(self) -> Self:
        self.home = self.home.expanduser().resolve()
        self.data_roots = [root.expanduser().resolve() for root in self.data_roots]
        if not self.database_url.get_secret_value():
            self.database_url = SecretStr(f"sqlite:///{self.home / 'ledger.sqlite'}")
        return self

    def corpus_folder(self, corpus_id: str) -> Path:
        """Where a corpus's shards lie."""
        return self.home / "corpora" / corpus_id

    def run_folder(self, run_id: str) -> Path:
        """Where a training run's checkpoint lies."""
        return self.home / "runs" / run_id

    def log_file(self, job_id: str, attempt: int) -> Path:
        """Where an attempt's output is kept."""
        return self.home / "logs" / f"{job_id}.{attempt}.log"

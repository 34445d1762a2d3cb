"""All that the API may know of the workers: task name, queues, shared settings.

Messages carry a job's id and nothing else; the ledger holds the rest.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from mixlab.corpora.reading.network import endpoint
from mixlab.corpora.reading.paths import PathPolicy
from mixlab.errors import InvalidInput
from workers.credentials import broker_url, database_url
from workers.logs import LogFormat

TASK_RUN_JOB = "mixlab.run_job"  # args: (job_id,)
KEY_PREFIX = "mixlab:"  # of every key on the broker


class SharedSettings(BaseSettings):
    """What the API, the workers and the sweep must agree on; environment `MIXLAB_*`."""

    # Inputs are hidden, since pydantic's errors would quote every other setting, URLs included.
    model_config = SettingsConfigDict(
        env_prefix="MIXLAB_", extra="ignore", hide_input_in_errors=True
    )

    home: Path = Field(Path(".mixlab"), description="Folder of shards, checkpoints and SQLite.")
    database_url: SecretStr = Field(
        SecretStr(""), description="SQLAlchemy URL; empty means SQLite in the home folder."
    )
    database_url_file: Path | None = Field(
        None, description="File that holds the database's URL, instead of MIXLAB_DATABASE_URL."
    )
    database_password_file: Path | None = Field(
        None, description="File that holds the password that the database's URL leaves out."
    )
    broker_url: SecretStr = Field(
        SecretStr(""), description="Redis-protocol broker; empty means redis://127.0.0.1:6379/0."
    )
    broker_url_file: Path | None = Field(
        None, description="File that holds the broker's URL, instead of MIXLAB_BROKER_URL."
    )
    broker_password_file: Path | None = Field(
        None, description="File that holds the password that the broker's URL leaves out."
    )
    data_roots: list[Path] = Field(
        default_factory=list, description="Folders that corpora may be read from."
    )
    log_format: LogFormat = Field(LogFormat.TEXT, description="text for people, json for programs.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Lines below it are left out."
    )
    remote_schemes: list[str] = Field(
        default_factory=list,
        description="Remote places that corpora may be read from: schemes such as s3, or better "
        "URLs such as s3://bucket/pile.",
    )
    remote_endpoints: list[str] = Field(
        default_factory=list,
        description="Private addresses that reading remote corpora may connect to, such as an "
        "object store's: an address, a network, or either with a port (10.0.0.5:9000).",
    )

    @field_validator("remote_endpoints")
    @classmethod
    def _check_endpoints(cls, given: list[str]) -> list[str]:
        try:
            for text in given:
                endpoint(text)
        except InvalidInput as problem:
            raise ValueError(str(problem)) from problem
        return given

    @model_validator(mode="after")
    def _resolve(self) -> Self:
        self.home = self.home.expanduser().resolve()
        self.data_roots = [root.expanduser().resolve() for root in self.data_roots]
        self.database_url = SecretStr(
            database_url(
                self.database_url.get_secret_value(),
                self.database_url_file,
                self.database_password_file,
                default=f"sqlite:///{self.home / 'ledger.sqlite'}",
            )
        )
        self.broker_url = SecretStr(
            broker_url(
                self.broker_url.get_secret_value(), self.broker_url_file, self.broker_password_file
            )
        )
        return self

    def path_policy(self) -> PathPolicy:
        """Where text may be read from."""
        return PathPolicy(tuple(self.data_roots), tuple(self.remote_schemes), apart=self.home)

    def corpus_folder(self, corpus_id: str) -> Path:
        """Where a corpus's shards lie."""
        return self.home / "corpora" / corpus_id

    def run_folder(self, run_id: str) -> Path:
        """Where a training run's checkpoint lies."""
        return self.home / "runs" / run_id

    def run_weights(self, run_id: str) -> Path:
        """Where a training run's weights lie once it has ended."""
        return self.run_folder(run_id) / "weights.safetensors"

    def log_file(self, job_id: str, attempt: int) -> Path:
        """Where an attempt's output is kept."""
        return self.home / "logs" / f"{job_id}.{attempt}.log"

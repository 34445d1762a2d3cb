"""Settings of the API, read from the environment `MIXLAB_*`."""

from pydantic import Field

from workers.contract import SharedSettings


class Settings(SharedSettings):
    """What the API needs beside what it shares with the workers."""

    host: str = Field("127.0.0.1", description="Address that the API listens on.")
    port: int = Field(8712, ge=0, le=65535, description="Port that the API listens on.")
    allowed_hosts: list[str] = Field(
        default_factory=lambda: ["localhost", "127.0.0.1", "[::1]"],
        description="Host headers that are answered; a guard against DNS rebinding.",
    )
    max_body_bytes: int = Field(
        32 * 2**20, ge=1024, description="Largest request body, chunked or not."
    )
    broker_timeout_seconds: float = Field(
        0.4, gt=0, le=30, description="How long an answer may wait for the broker."
    )

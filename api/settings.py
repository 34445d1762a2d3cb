"""Settings of the API, read from the environment `MIXLAB_*`."""

import socket
from ipaddress import ip_address
from typing import Annotated

from limits import parse
from pydantic import AfterValidator, Field

from workers.contract import SharedSettings


def _rate(text: str) -> str:
    parse(text)  # raises ValueError
    return text


Rate = Annotated[str, AfterValidator(_rate)]


class Settings(SharedSettings):
    """What the API needs beside what it shares with the workers."""

    host: str = Field("127.0.0.1", min_length=1, description="Address that the API listens on.")
    port: int = Field(8712, ge=0, le=65535, description="Port that the API listens on.")
    allowed_hosts: list[str] = Field(
        default_factory=lambda: ["localhost", "127.0.0.1", "[::1]"],
        description="Host headers that are answered; a guard against DNS rebinding.",
    )
    broker_timeout_seconds: float = Field(
        0.4, gt=0, le=30, description="How long an answer may wait for the broker."
    )

    require_idempotency_key: bool = Field(
        False, description="Refuse requests that make something without an Idempotency-Key."
    )

    # Who asks.
    key_cache_seconds: float = Field(
        2.0, ge=0, le=10, description="How long a revoked API key may still be answered."
    )
    max_active_jobs: int | None = Field(
        1000, ge=1, description="Unfinished jobs of an API key that has no number of its own."
    )

    # How often. As the library `limits` writes it: 300/second, 20 per minute.
    rate_per_address: Rate = Field("36000/minute", description="Requests of one address.")
    rate_per_key: Rate = Field("36000/minute", description="Requests with one API key.")
    changes_per_key: Rate = Field("6000/minute", description="Those of them that are no GET.")
    refusals_per_address: Rate = Field(
        "30/minute", description="Wrong API keys from one address; more aren't looked at."
    )
    rates_on_broker: bool = Field(
        False, description="Count on the broker, for several API processes; else in memory."
    )

    # How much at once.
    max_requests: int = Field(
        2000, ge=10, description="Requests under way at once, event streams among them."
    )
    max_requests_per_caller: int = Field(
        1500, ge=1, description="The same of one API key; less than all, so that others get in."
    )
    max_streams: int = Field(
        1500,
        ge=0,
        description="Event streams and long polls open at once; less than all requests, so that "
        "polls are answered beside them.",
    )
    max_connections: int = Field(4000, ge=10, description="Connections open at once.")

    # How large.
    max_body_bytes: int = Field(
        32 * 2**20, ge=1024, description="Largest request body, chunked or not."
    )
    max_body_values: int = Field(
        2_000_000, ge=100, description="Most numbers, texts, lists and objects in a body."
    )

    # How slow.
    head_seconds: float = Field(
        10.0, gt=0, description="For a request's head to arrive, from its first byte."
    )
    body_seconds: float = Field(60.0, gt=0, description="For a request's body to arrive.")
    answer_seconds: float = Field(
        90.0, gt=0, description="For an answer to begin; long polls take at most two thirds of it."
    )
    stalled_seconds: float = Field(
        30.0, gt=0, description="A client that doesn't read its answer for so long is let go."
    )

    @property
    def only_local(self) -> bool:
        """Whether nobody but this machine can reach what listens on the host."""
        try:
            found = {entry[4][0] for entry in socket.getaddrinfo(self.host, None)}
        except OSError:
            return False
        return all(ip_address(str(each).partition("%")[0]).is_loopback for each in found)

"""Server-side requests: a corpus must not read what only this machine or its network may.

The guard can't be taken back, so each attempt runs in a process of its own.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from mixlab.corpora.reading.network import endpoint, refusal
from mixlab.corpora.reading.paths import PathPolicy
from mixlab.errors import InvalidInput, PathNotAllowed
from tests.security.conftest import corpus
from workers.contract import SharedSettings

PRIVATE = (
    "127.0.0.1", "127.1.2.3", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254",
    "169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192", "224.0.0.1",
    "255.255.255.255",
    "::1", "::", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1",
    "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "::127.0.0.1",
    "2001:0:4136:e378:8000:63bf:80ff:fffe", "localhost", "metadata.google.internal", "",
    "0x7f000001",
    "2130706433", "127.1",
)  # fmt: skip
PUBLIC = ("8.8.8.8", "52.216.0.1", "2606:4700::1111", "2a00:1450:4001::1", "::ffff:8.8.8.8")


class Metadata(BaseHTTPRequestHandler):
    """What stands for a cloud's metadata service: its answer is the secret."""

    asked: list[str]

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"credentials-of-the-machine")

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def metadata() -> Iterator[tuple[int, list[str]]]:
    """Its port, and what it was asked for."""
    handler = type("Asked", (Metadata,), {"asked": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port, handler.asked
    server.shutdown()
    server.server_close()


ATTEMPT = """
import asyncio, json, socket, sys, http.client, urllib.request
from mixlab.corpora.reading import network
from mixlab.errors import PathNotAllowed

way, host, port, endpoints = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
network.guard(endpoints)
resolve = socket.getaddrinfo
answers = iter(["8.8.8.8", "127.0.0.1", "127.0.0.1", "127.0.0.1"])

def rebinding(name, *rest, **more):  # public when it is looked at, private when it is used
    address = next(answers) if name == "rebinding.example" else name
    return resolve(address, *rest, **more)

socket.getaddrinfo = rebinding
if host == "rebinding.example":
    assert socket.getaddrinfo(host, port)[0][4][0] == "8.8.8.8"  # the look before

async def streams():
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"GET / HTTP/1.0\\r\\n\\r\\n")
    return await reader.read()

def plain():
    made = http.client.HTTPConnection(host, port, timeout=3)
    made.request("GET", "/latest/meta-data")
    return made.getresponse().read()

def redirected():
    return urllib.request.urlopen(f"http://{host}:{port}/", timeout=3).read()

def bare():
    with socket.socket() as one:
        one.settimeout(3)
        one.connect((host, port))
        one.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        return one.recv(1000)

def datagram():
    with socket.socket(type=socket.SOCK_DGRAM) as one:
        one.sendto(b"x", (host, port))
    return b"sent"

ways = {"streams": lambda: asyncio.run(streams()), "plain": plain, "redirected": redirected,
        "bare": bare, "datagram": datagram}
try:
    print("ANSWERED", ways[way]())
except PathNotAllowed as refused:
    print("REFUSED", refused, network.last_refusal())
except OSError as problem:
    print("FAILED", type(problem).__name__)
"""


def attempt(way: str, host: str, port: int, endpoints: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", ATTEMPT, way, host, str(port), json.dumps(endpoints)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_spelling_of_a_private_address_is_public() -> None:
    assert [host for host in PRIVATE if refusal(host, 80, ()) is None] == []
    assert [host for host in PUBLIC if refusal(host, 443, ()) is not None] == []


def test_what_the_operator_names_is_let_through_and_nothing_beside_it() -> None:
    named = [endpoint(text) for text in ("10.0.0.5:9000", "fd00::/8", "192.168.7.0/24:443")]
    for host, port in (("10.0.0.5", 9000), ("fd00::9", 1), ("192.168.7.9", 443)):
        assert refusal(host, port, named) is None
    for host, port in (("10.0.0.5", 9001), ("10.0.0.6", 9000), ("fe80::1", 1), ("192.168.7.9", 80)):
        assert refusal(host, port, named) is not None
    for text in ("minio", "minio:9000", "10.0.0.5:x", "", "http://10.0.0.5", "10.0.0.0/40"):
        with pytest.raises(InvalidInput, match="address"):
            endpoint(text)
        with pytest.raises(ValidationError, match="address"):  # at the start, not in a job
            SharedSettings(remote_endpoints=[text])


@pytest.mark.slow
def test_the_metadata_service_is_never_asked(metadata: tuple[int, list[str]]) -> None:
    port, asked = metadata
    for way in ("plain", "streams", "bare", "datagram"):
        for host in (
            "127.0.0.1",
            "rebinding.example" if way in ("plain", "streams") else "127.0.0.1",
        ):
            told = attempt(way, host, port, [])
            assert told.startswith("REFUSED"), (way, host, told)
            assert "MIXLAB_REMOTE_ENDPOINTS" in told
    assert asked == []


def test_an_endpoint_that_is_named_is_reached(metadata: tuple[int, list[str]]) -> None:
    port, asked = metadata
    assert "credentials" in attempt("plain", "127.0.0.1", port, [f"127.0.0.1:{port}"])
    assert asked == ["/latest/meta-data"]
    asked.clear()
    assert attempt("plain", "127.0.0.1", port, [f"127.0.0.1:{port + 1}"]).startswith("REFUSED")
    assert asked == []


def test_no_endpoint_host_or_option_comes_from_a_request(user: TestClient) -> None:
    """Remote URLs are off; where they are on, they are a bucket and a key."""
    for url in (
        "s3://bucket/a", "http://169.254.169.254/", "gs://x/y", "memory://a", "simplecache::s3://b/a",
        "s3://a@169.254.169.254/b", "ftp://127.0.0.1/a", "gopher://127.0.0.1:6379/_x", "hf://datasets/x",
    ):  # fmt: skip
        answer = user.post("/corpora", json=corpus(url))
        assert answer.status_code == 403, url
        assert answer.json()["type"] == "urn:mixlab:error:path-not-allowed"
    options = {"storage_options": {"endpoint_url": "http://127.0.0.1"}, "endpoint_url": "http://x"}
    for name, value in options.items():
        body = corpus("s3://bucket/a")
        body["domains"]["x"][name] = value
        assert user.post("/corpora", json=body).status_code == 422
        assert (
            user.post("/corpora", json=corpus("s3://bucket/a") | {name: value}).status_code == 422
        )


def test_a_bucket_that_is_not_named_is_refused() -> None:
    policy = PathPolicy(remote_schemes=("s3://ours/pile",))
    assert policy.check("s3://ours/pile/a.jsonl")
    for url in (
        "s3://ours",
        "s3://ours/pilex",
        "s3://theirs/pile",
        "s3://ours/pile/../x",
        "gs://ours/pile",
    ):
        with pytest.raises(PathNotAllowed):
            policy.check(url)

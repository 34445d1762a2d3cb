"""Requests that are too large, too slow or too many, on real sockets where it matters."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from limits import parse as parse_rate
from pydantic import SecretStr, ValidationError

from api import serving
from api.app import create_app
from api.errors import RequestRefused
from api.limits import MAX_HEADER_BYTES, MAX_TARGET_BYTES, Bounded
from api.rates import Rates
from api.serving import configuration
from api.settings import Settings
from api.shapes import MAX_DEPTH, check_shape
from api.strict import parse
from cli.broker import Broker
from mixlab.ledger.records import Scope

JSON = {"content-type": "application/json"}
HERE = ("127.0.0.1", 1)
HEAD_SECONDS, BODY_SECONDS = 0.6, 0.8


def served(settings: Settings) -> TestClient:
    return TestClient(create_app(settings), client=HERE, raise_server_exceptions=False)


def with_(settings: Settings, **changes: Any) -> Settings:
    return settings.model_copy(update=changes)


class TestSizes:
    def test_a_body_above_the_limit_announced_or_not(self, settings: Settings) -> None:
        pulled = 0

        def chunks() -> Iterator[bytes]:
            nonlocal pulled
            for _ in range(100):
                pulled += 1
                yield b" " * 10_000

        with served(with_(settings, max_body_bytes=50_000)) as client:
            for content in (b" " * 50_001, chunks()):
                answer = client.post("/corpora", content=content, headers=JSON)
                assert answer.status_code == 413
                assert answer.json()["type"] == "urn:mixlab:error:body-too-large"
                assert answer.headers["connection"] == "close"
            lying = JSON | {"content-length": "10"}
            assert client.post("/corpora", content=b"{" * 10, headers=lying).status_code == 400

    def test_a_length_that_is_no_number_counts_as_it_comes(self, settings: Settings) -> None:
        with served(with_(settings, max_body_bytes=2000)) as client:
            for length in ("-1", "1e9", "9" * 40, "0x10"):
                headers = JSON | {"content-length": length}
                answer = client.post("/corpora", content=b" " * 3000, headers=headers)
                assert answer.status_code in (400, 413)

    def test_a_long_url_and_many_or_long_headers(self, settings: Settings) -> None:
        with served(settings) as client:
            assert client.get("/jobs", params={"x": "y" * MAX_TARGET_BYTES}).status_code == 414
            assert client.get("/" + "x" * MAX_TARGET_BYTES).status_code == 414
            answer = client.get("/jobs", headers={"x": "y" * MAX_HEADER_BYTES})
            assert answer.status_code == 431
            assert (
                client.get("/jobs", headers={f"x{n}": "y" for n in range(101)}).status_code == 431
            )
            for path in ("/livez", "/openapi.json"):
                assert client.get(path, headers={"x": "y" * MAX_HEADER_BYTES}).status_code == 431

    def test_nesting_and_values(self, settings: Settings) -> None:
        with served(with_(settings, max_body_values=5_000)) as client:
            for text, status in (
                ("[" * 2_000 + "]" * 2_000, 400), ('{"a":' * 500 + "1" + "}" * 500, 400),
                ("[" * 4_000, 400), ('{"a":[' * 60 + "]}" * 60, 400), ("[" * 200_000, 413),
                ("[" + "{}," * 5_000 + "{}]", 413), ("[" + "1," * 9_999 + "1]", 413),
                ('{"' + '":1,"'.join(map(str, range(9_999))) + '":1}', 413),
            ):  # fmt: skip
                answer = client.post("/mixtures/fit", content=text, headers=JSON)
                assert answer.status_code == status, text[:20]
                assert len(answer.text) < 1_000

    def test_brackets_and_commas_within_texts_don_t_count(self) -> None:
        text = json.dumps({"a": '[{,"' * 10_000, 'b\\"[[[[': ["]", "}"]})
        check_shape(text.encode(), 10)
        assert parse(text.encode(), 10)["a"].startswith("[{,")
        check_shape(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, 100)
        with pytest.raises(RequestRefused, match="nested"):
            check_shape(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), 100)

    @pytest.mark.parametrize(
        "body",
        [b'"' + b"\\" * 3_000_000, b'"\\"' * 1_000_000, b"[" + b'"' * 2_000_001, b"[]{}" * 700_000,
         b"{[" * 700_000, b'{"a":"' + b"\\u005b" * 400_000],
    )  # fmt: skip
    def test_counting_takes_no_longer_for_what_is_made_to_take_long(self, body: bytes) -> None:
        began = time.monotonic()
        with pytest.raises(RequestRefused):
            parse(body, 100_000)
        assert time.monotonic() - began < 5

    def test_one_name_twice_among_many_is_found_at_once(self) -> None:
        names = ",".join(f'"n{n}":1' for n in range(200_000))
        began = time.monotonic()
        with pytest.raises(RequestRefused, match="twice"):
            parse(f'{{{names},"n199999":1}}'.encode(), 10**6)
        assert time.monotonic() - began < 5


def test_a_corpus_of_more_paths_than_can_be_looked_at_in_an_answer(
    user: TestClient, data: Path
) -> None:
    paths = [str(data / "a.jsonl")] * 10_000
    domains = {name: {"paths": paths} for name in "abc"}
    began = time.monotonic()
    answer = user.post("/corpora", json={"name": "c", "domains": domains})
    assert answer.status_code == 422
    assert "name folders" in answer.json()["detail"]
    assert time.monotonic() - began < 5


class TestHowOften:
    def test_of_an_address(self, settings: Settings) -> None:
        with served(with_(settings, rate_per_address="5/minute")) as client:
            answers = [client.get("/jobs") for _ in range(7)]
            assert [a.status_code for a in answers] == [200] * 5 + [429] * 2
            assert 0 < int(answers[-1].headers["retry-after"]) <= 60
            assert answers[-1].json()["type"] == "urn:mixlab:error:too-many-requests"
            assert client.get("/docs").status_code == 429
            assert client.get("/livez").status_code == 200  # a busy process isn't dead
            other = TestClient(client.app, client=("127.0.0.2", 1))
            assert other.get("/jobs").status_code == 200

    def test_of_a_key_and_of_changes(self, settings: Settings) -> None:
        changes = {"rate_per_key": "6/minute", "changes_per_key": "2/minute"}
        with served(with_(settings, **changes)) as client:
            posts = [client.post("/mixtures", json={}).status_code for _ in range(3)]
            assert posts == [422, 422, 429]
            assert [client.get("/jobs").status_code for _ in range(4)] == [200] * 3 + [429]

    def test_wrong_keys_are_looked_at_only_so_often_but_right_ones_are(
        self, settings: Settings
    ) -> None:
        with served(
            with_(settings, refusals_per_address="3/minute", key_cache_seconds=0)
        ) as client:
            ledger = client.app.state.resources.ledger()  # type: ignore[attr-defined]
            _, token = ledger.keys.create("k", (Scope.READ,))
            right = {"Authorization": f"Bearer {token}"}
            assert client.get("/jobs", headers=right).status_code == 200
            wrong = {"Authorization": f"Bearer mlk_{'0' * 24}_{'0' * 64}"}
            statuses = [client.get("/jobs", headers=wrong).status_code for _ in range(5)]
            assert statuses == [401] * 3 + [429] * 2
            assert client.get("/jobs", headers=right).status_code == 200
            _, fresh = ledger.keys.create("k2", (Scope.READ,))
            answer = client.get("/jobs", headers={"Authorization": f"Bearer {fresh}"})
            assert answer.status_code == 429  # nobody can tell it from a guess

    def test_ipv6_counts_by_network(self, settings: Settings) -> None:
        with served(with_(settings, rate_per_address="2/minute")) as client:
            statuses = []
            for host in ("2001:db8::1", "2001:db8::2", "2001:db8::ffff:3", "2001:db8:0:1::1"):
                one = TestClient(client.app, client=(host, 1))
                statuses.append(one.get("/openapi.json").status_code)
            assert statuses == [200, 200, 429, 200]

    def test_on_the_broker_and_in_memory_while_it_is_away(self, settings: Settings) -> None:
        changes = {"rates_on_broker": True, "rate_per_address": "2/minute"}
        with served(with_(settings, **changes)) as client:
            assert [client.get("/jobs").status_code for _ in range(3)] == [200, 200, 429]

    @pytest.mark.service
    def test_several_processes_count_together_on_the_broker(
        self, settings: Settings, tmp_path: Path
    ) -> None:
        made = Broker.prepare(tmp_path / "broker")
        shared = with_(settings, rates_on_broker=True, broker_url=SecretStr(made.url))
        with (tmp_path / "log").open("wb") as log, Popen(made.command, stdout=log) as process:
            made.wait(process, tmp_path / "log")

            async def count() -> list[bool]:
                both, passed = [Rates(shared), Rates(shared)], []
                for number in range(4):
                    try:
                        await both[number % 2].count(parse_rate("3/minute"), "requests", "me")
                        passed.append(True)
                    except RequestRefused:
                        passed.append(False)
                return passed

            assert asyncio.run(count()) == [True, True, True, False]
            process.terminate()

    def test_a_rate_that_is_none_is_refused_at_the_start(self) -> None:
        for text in ("fast", "10", "-1/minute", ""):
            with pytest.raises(ValidationError):
                Settings(rate_per_key=text)


class TestHowMuchAtOnce:
    def test_in_all_and_of_one_caller(self, settings: Settings) -> None:
        """Held open by an answer that waits."""
        made = create_app(with_(settings, max_requests=3, max_requests_per_caller=2))
        free = asyncio.Event()

        @made.get("/held")
        async def held() -> str:
            await free.wait()
            return "done"

        async def ask(client: httpx.AsyncClient, path: str) -> int:
            return (await client.get(path)).status_code

        async def go() -> None:
            transport = httpx.ASGITransport(made, client=HERE)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://testserver"
            ) as client:
                first = [asyncio.create_task(ask(client, "/held")) for _ in range(2)]
                await asyncio.sleep(0.3)
                assert await ask(client, "/jobs") == 429  # a third of the same caller
                assert await ask(client, "/openapi.json") == 200
                more = [asyncio.create_task(ask(client, "/held")) for _ in range(2)]
                await asyncio.sleep(0.1)
                assert await ask(client, "/livez") == 200
                free.set()
                assert [await task for task in first] == [200, 200]
                assert sorted([await task for task in more]) == [429, 503]
                assert await ask(client, "/jobs") == 200

        asyncio.run(go())

    def test_the_whole(self, settings: Settings) -> None:
        waiting = asyncio.Event()

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            await waiting.wait()

        async def go() -> None:
            layer = Bounded(slow, settings=with_(settings, max_requests=1))
            sent: list[Any] = []

            async def send(message: Any) -> None:
                sent.append(message)

            def scope(path: str) -> dict[str, Any]:
                return {"type": "http", "path": path, "raw_path": path.encode(), "headers": [],
                        "query_string": b"", "method": "GET"}  # fmt: skip

            held = asyncio.create_task(layer(scope("/x"), receive, send))
            await asyncio.sleep(0)
            await layer(scope("/y"), receive, send)
            assert sent[0]["status"] == 503
            assert (b"retry-after", b"1") in sent[0]["headers"]
            waiting.set()
            await held

        async def receive() -> Any:
            return {"type": "http.disconnect"}

        asyncio.run(go())

    def test_an_answer_that_does_not_begin(self, settings: Settings) -> None:
        made = create_app(with_(settings, answer_seconds=0.3))

        @made.get("/never")
        async def never() -> None:
            await asyncio.sleep(30)

        @made.get("/stuck")
        def stuck() -> None:
            time.sleep(1)  # in a thread, which nobody can stop

        with TestClient(made, client=HERE, raise_server_exceptions=False) as client:
            for path in ("/never", "/stuck"):
                began = time.monotonic()
                answer = client.get(path)
                assert answer.status_code == 503
                assert "0.3 s" in answer.json()["detail"]
                assert time.monotonic() - began < 0.9


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A real server with short times."""
    settings = Settings(
        home=tmp_path_factory.mktemp("home"), broker_url="redis://127.0.0.1:1/0", port=0,
        head_seconds=HEAD_SECONDS, body_seconds=BODY_SECONDS, max_body_bytes=100_000,
        stalled_seconds=0.5, max_connections=50,
    )  # fmt: skip
    app = create_app(settings)

    @app.get("/large")
    def large() -> dict[str, str]:
        return {"x": "y" * 30_000_000}

    server = uvicorn.Server(configuration(app, settings))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "LINGER_SECONDS", 1.0)
        yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(20)


class Raw:
    """A connection that sends what it likes."""

    def __init__(self, port: int, **options: int) -> None:
        self.socket = socket.socket()
        for name, value in options.items():
            self.socket.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
        self.socket.settimeout(8)
        self.socket.connect(("127.0.0.1", port))

    def send(self, text: str) -> "Raw":
        self.socket.sendall(text.encode())
        return self

    def answer(self) -> str:
        """All that comes until the other side closes."""
        parts = []
        try:
            while part := self.socket.recv(65_536):
                parts.append(part)
        except ConnectionResetError:
            pass
        return b"".join(parts).decode(errors="replace")

    def trickle(self, text: str) -> float:
        """Send it again and again, slowly; the seconds until the other side has had enough."""
        began = time.monotonic()
        while time.monotonic() < began + 10:
            try:
                self.send(text)
            except OSError:
                break
            time.sleep(0.02)
        return time.monotonic() - began

    def closed_after(self) -> float:
        began = time.monotonic()
        self.answer()
        return time.monotonic() - began


GET = "GET /livez HTTP/1.1\r\nHost: localhost\r\n"
POST = "POST /corpora HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.mark.slow
class TestSlowLoris:
    @pytest.mark.parametrize("start", ["", "GET", "GET / HTTP/1.1\r\n", GET, GET + "X-A: "])
    def test_a_head_that_never_ends(self, port: int, start: str) -> None:
        assert Raw(port).send(start).closed_after() < HEAD_SECONDS + 1

    def test_a_head_that_comes_byte_by_byte(self, port: int) -> None:
        assert Raw(port).send(GET).trickle("X") < HEAD_SECONDS + 1

    def test_a_second_head_on_the_same_connection(self, port: int) -> None:
        raw = Raw(port).send(GET + "\r\n")
        time.sleep(0.2)
        assert raw.send("GET /li").closed_after() < HEAD_SECONDS + 1

    def test_a_body_that_never_ends(self, port: int) -> None:
        for head in (
            "Content-Length: 5000\r\n\r\n{",
            "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
        ):
            answer = Raw(port).send(POST + head).answer()
            assert answer.startswith("HTTP/1.1 408")
            assert "urn:mixlab:error:too-slow" in answer

    def test_a_body_that_nobody_reads_and_never_ends(self, port: int) -> None:
        raw = Raw(port).send(
            "GET /livez HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        assert raw.trickle("1\r\nx\r\n") < 3

    def test_an_answer_that_is_not_read(self, port: int) -> None:
        raw = Raw(port, SO_RCVBUF=4096).send("GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(2.5)  # longer than a stalled client is waited for
        assert len(raw.answer()) < 30_000_000

    def test_others_are_answered_meanwhile(self, port: int) -> None:
        held = [Raw(port).send(GET) for _ in range(30)]
        began = time.monotonic()
        assert Raw(port).send(GET + "Connection: close\r\n\r\n").answer().startswith("HTTP/1.1 200")
        assert time.monotonic() - began < 2
        del held

    def test_more_connections_than_allowed_are_closed_at_once(self, port: int) -> None:
        time.sleep(HEAD_SECONDS + 0.3)  # those of other tests are gone
        held = [Raw(port) for _ in range(70)]
        time.sleep(0.2)
        began, ended = time.monotonic(), 0
        for raw in held:
            raw.socket.settimeout(0.01)
            try:
                ended += raw.socket.recv(1) == b""
            except ConnectionResetError:
                ended += 1
            except TimeoutError:
                pass
        assert time.monotonic() - began < HEAD_SECONDS + 0.5
        assert ended >= 20


class TestSmuggling:
    """A front and a back that disagree where a request ends; here the doubtful one is refused."""

    @pytest.mark.parametrize(
        "head",
        [
            "Content-Length: 5\r\nContent-Length: 6\r\n", "Content-Length: 5, 6\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
            "Transfer-Encoding: xchunked\r\n", "Content-Length: +5\r\n", "Content-Length: 0x5\r\n",
            "Content-Length : 5\r\n", "Host: evil.example\r\n", "Transfer-Encoding\r\n",
            "X: a\r\n b: folded\x00\r\n",
        ],
    )  # fmt: skip
    def test_a_doubtful_head(self, port: int, head: str) -> None:
        answer = Raw(port).send(POST + head + "\r\n12345GET /jobs HTTP/1.1\r\n\r\n").answer()
        assert answer.startswith(("HTTP/1.1 400", "HTTP/1.1 501"))
        assert answer.count("HTTP/1.1") == 1

    @pytest.mark.parametrize("host", ["localhost", "evil.example"])
    @pytest.mark.parametrize("first", ["Content-Length", "Transfer-Encoding"])
    def test_two_lengths(self, port: int, host: str, first: str) -> None:
        """By its chunks the body ends at once, by its Content-Length with the second request."""
        inner = "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
        told = {"Content-Length": str(len(inner) + 5), "Transfer-Encoding": "chunked"}
        lines = sorted((f"{name}: {text}\r\n" for name, text in told.items()),
                       key=lambda line: not line.startswith(first))  # fmt: skip
        head = f"POST /jobs HTTP/1.1\r\nHost: {host}\r\n" + "".join(lines)
        answer = Raw(port).send(head + "\r\n0\r\n\r\n" + inner).answer()
        assert answer.startswith("HTTP/1.1 400")
        assert answer.count("HTTP/1.1") == 1

    def test_a_head_of_megabytes(self, port: int) -> None:
        try:
            answer = Raw(port).send(GET + "X: " + "y" * 2_000_000).answer()
        except OSError:
            return  # closed while we were still sending
        assert answer[:12] in ("", "HTTP/1.1 400", "HTTP/1.1 431")


def test_what_is_settings_is_held(settings: Settings, app: FastAPI, user: Any) -> None:
    """Every limit above has a default that lets ordinary work pass."""
    chosen: dict[str, Callable[[Any], bool]] = {
        "max_body_bytes": lambda n: 10**6 < n < 10**9, "max_requests": lambda n: n >= 1_000,
        "head_seconds": lambda n: 1 < n <= 30, "body_seconds": lambda n: 5 < n <= 120,
        "answer_seconds": lambda n: 30 < n <= 300, "key_cache_seconds": lambda n: n <= 10,
    }  # fmt: skip
    assert all(holds(Settings.model_fields[name].default) for name, holds in chosen.items())
    assert user.get("/jobs").status_code == 200

"""Spans go out of every process that makes them, in one trace, and none where none are wanted."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from api.app import create_app
from api.settings import Settings
from mixlab.ledger import Ledger
from mixlab.ledger.records import JobKind, JobState, Queue
from workers import tracing
from workers.settings import WorkerSettings
from workers.supervisor import supervise

ROOT = Path(__file__).parents[2]
ABOVE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What this process makes, kept in memory."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(tracing, "_providers", {os.getpid(): provider})
    return exporter


def test_a_request_is_a_span_by_its_route_in_the_trace_of_its_client(
    spans: InMemorySpanExporter, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path, broker_url="redis://127.0.0.1:1", allowed_hosts=["*"])
    with TestClient(create_app(settings), client=("127.0.0.1", 1)) as client:
        client.get("/jobs/job_000000000000000000000000", headers={"traceparent": ABOVE})
        client.get("/corpora")
    one, other = spans.get_finished_spans()
    assert (one.name, other.name) == ("GET /jobs/{job_id}", "GET /corpora")
    assert one.attributes is not None
    assert one.attributes["http.response.status_code"] == 404
    assert one.context is not None
    assert other.context is not None
    assert f"{one.context.trace_id:032x}" == ABOVE.split("-")[1]
    assert other.context.trace_id != one.context.trace_id


def test_nothing_is_made_where_nobody_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tracing.ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    script = (
        "import sys; from workers import tracing\n"
        "with tracing.span('x', component='api'): tracing.note('y', a=1)\n"
        "tracing.flush(); print(tracing.carried(), 'opentelemetry' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "{} False"


def test_without_the_extra_work_goes_on_and_the_log_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(tracing, "find_spec", lambda _name: None)
    tracing._installed.cache_clear()
    try:
        with tracing.span("x", component="worker"), tracing.span("y", component="worker"):
            pass
    finally:
        tracing._installed.cache_clear()
    assert [record.getMessage() for record in caplog.records] == [
        "no spans are made: they need pip install 'mixlab[otel]'"
    ]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, Span]]]:
    """An OTLP collector; the spans that reach it, with the service that each is from."""
    found: list[tuple[str, Span]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                told = {each.key: each.value.string_value for each in resource.resource.attributes}
                for scope in resource.scope_spans:
                    found.extend((told["service.name"], span) for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(tracing, "_providers", {})
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
def test_an_attempt_and_the_process_that_does_it_are_one_trace(
    collector: list[tuple[str, Span]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIXLAB_HOME", str(tmp_path))
    monkeypatch.setenv("MIXLAB_JOB_MODULE_PREFIX", "tests.workers.fake_jobs")
    settings = WorkerSettings()
    ledger = Ledger.open(settings.database_url.get_secret_value())
    payload = {"act": "sleep", "seconds": 0, "effects": str(tmp_path / "effects")}
    job = ledger.submit(JobKind.TRAIN, payload, queue=Queue.GPU)
    supervise(job.id, ledger, settings, stopping=lambda: False)
    assert ledger.job(job.id).state == JobState.SUCCEEDED
    ledger.close()
    by_service = dict(collector)
    assert set(by_service) == {"mixlab-worker", "mixlab-runner"}
    worker, runner = by_service["mixlab-worker"], by_service["mixlab-runner"]
    assert (worker.name, runner.name) == ("worker train", "runner train")
    assert runner.trace_id == worker.trace_id
    assert runner.parent_span_id == worker.span_id
    for span in (worker, runner):
        told = {each.key: each.value.string_value for each in span.attributes}
        assert told["mixlab.job.id"] == job.id

"""The dashboard, the alerts and Prometheus' configuration speak of metrics that there are."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from api.dependencies import Resources
from api.metrics.collector import registry_of
from api.metrics.observing import Requests
from api.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
ENDINGS = {
    "counter": ["_total"],
    "histogram": ["_bucket", "_count", "_sum"],
    "gaugehistogram": ["_bucket", "_gcount", "_gsum"],
    "info": ["_info"],
}
OF_PROMETHEUS = {"up"}  # Prometheus' own
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "mixlab.json").read_text())
ALERTS: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Every name that /metrics has once all is up, with and without samples."""
    settings = Settings(home=tmp_path_factory.mktemp("home"), broker_url="redis://127.0.0.1:1/0")
    resources = Resources(settings)
    registry: CollectorRegistry = registry_of(resources)
    Requests(registry)
    names = set()
    for family in registry.collect():
        names |= {family.name + ending for ending in ENDINGS.get(family.type, [""])}
    resources.close()
    return names


def _named(expression: str) -> set[str]:
    """Metrics in an expression: words that are no function, label or keyword."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\"[^\"]*\"", "", expression)
    bare = re.sub(r"\b(by|on|without|ignoring)\s*\([^)]*\)", "", bare)
    words = re.findall(r"[a-z_][a-z0-9_]*(?!\w*\s*\()", bare)
    return {word for word in words if word.startswith(("mixlab_", "process_")) or word == "up"}


def _expressions() -> Iterator[str]:
    for rule in RULES:
        yield rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


def test_every_metric_that_is_named_is_exposed(exposed: set[str]) -> None:
    named = set().union(*map(_named, _expressions()))
    assert {"mixlab_jobs", "mixlab_job_duration_seconds_gcount", "up"} <= named
    assert named - OF_PROMETHEUS <= exposed


def test_every_metric_of_ours_is_shown_or_watched(exposed: set[str]) -> None:
    named = set().union(*map(_named, _expressions()))
    families = {re.sub(r"_(bucket|g?count|g?sum|total|info)$", "", name) for name in exposed}
    shown = {re.sub(r"_(bucket|g?count|g?sum|total|info)$", "", name) for name in named}
    ours = {name for name in families if name.startswith("mixlab_")}
    assert ours - shown <= {"mixlab_build", "mixlab_ledger_tally_seconds"}


def test_series_of_tests_are_metrics_too(exposed: set[str]) -> None:
    tests = yaml.safe_load((DEPLOY / "prometheus" / "alerts_test.yml").read_text())["tests"]
    series = {
        re.split(r"[{ ]", entry["series"])[0] for test in tests for entry in test["input_series"]
    }
    assert series - OF_PROMETHEUS <= exposed


def test_what_must_be_watched_is_watched_and_every_alert_is_tested() -> None:
    names = {rule["alert"] for rule in RULES}
    assert {
        "WorkerSilent", "QueueWaitsLong", "JobsFailing", "LeasesExpiring", "DiskNearlyFull",
        "LedgerDown", "BrokerDown",
    } <= names  # fmt: skip
    for rule in RULES:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}
    tests = yaml.safe_load((DEPLOY / "prometheus" / "alerts_test.yml").read_text())["tests"]
    assert {entry["alertname"] for test in tests for entry in test["alert_rule_test"]} == names


def test_panels_stand_side_by_side_and_ask_the_provisioned_prometheus() -> None:
    source = yaml.safe_load(
        (DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text()
    )["datasources"][0]
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        assert panel["datasource"] == {"type": source["type"], "uid": source["uid"]}
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_prometheus_finds_what_compose_mounts() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    mounts = dict(volume.split(":")[:2] for volume in compose["prometheus"]["volumes"])
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    assert set(config["rule_files"]) <= set(mounts.values())
    (job,) = config["scrape_configs"]
    assert job["authorization"]["credentials_file"] == "/run/secrets/metrics_key"
    assert "metrics_key" in compose["prometheus"]["secrets"]
    (target,) = job["static_configs"][0]["targets"]
    host, port = target.split(":")
    assert f'"{host}"' in compose["api"]["environment"]["MIXLAB_ALLOWED_HOSTS"]
    assert compose["api"]["ports"][0].endswith(f":{port}")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not on this machine")
@pytest.mark.parametrize(
    "words",
    [
        ("check", "rules", "alerts.yml"),
        ("check", "config", "--syntax-only", "prometheus.yml"),
        ("test", "rules", "alerts_test.yml"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_promtool_agrees(words: tuple[str, ...]) -> None:
    done = subprocess.run(
        ["promtool", *words], cwd=DEPLOY / "prometheus", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr

"""`make check` looks for known holes, and never takes a database that is away for a clean bill."""

import json
import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
AUDIT = runpy.run_path(str(ROOT / "scripts" / "audit"))
HOLE = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2.0"]}


def audited(monkeypatch: pytest.MonkeyPatch, stdout: str) -> int:
    def run(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 0, stdout, "")

    monkeypatch.setattr(subprocess, "run", run)
    status: int = AUDIT["main"]()
    return status


def package(**more: Any) -> dict[str, Any]:
    return {"name": "x", "version": "1.0", "vulns": [], **more}


def test_a_known_hole_fails_the_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audited(monkeypatch, json.dumps({"dependencies": [package(vulns=[HOLE])]})) == 1
    assert "PYSEC-1" in capsys.readouterr().out
    assert audited(monkeypatch, json.dumps({"dependencies": [package()]})) == 0
    assert "1 of 1 packages looked at, 0 known holes" in capsys.readouterr().out


@pytest.mark.parametrize(
    "stdout",
    ["", "no JSON", "{}", json.dumps({"dependencies": []}),
     json.dumps({"dependencies": [{"name": "x", "skip_reason": "not found on PyPI"}]})],
)  # fmt: skip
def test_an_audit_of_nothing_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stdout: str
) -> None:
    assert audited(monkeypatch, stdout) == 0
    assert "NOT AUDITED" in capsys.readouterr().out


def test_make_check_runs_both() -> None:
    makefile = (ROOT / "Makefile").read_text()
    check = makefile.partition("\ncheck:")[2].partition("\n\n")[0]
    assert "bandit" in check
    assert "scripts/audit" in check


def test_the_workflows_and_the_compose_file_hold_no_password() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    for name, service in compose["services"].items():
        for variable, value in (service.get("environment") or {}).items():
            if "PASSWORD" in variable and not variable.endswith("_FILE"):
                assert str(value).startswith("${"), f"{name}: {variable}"

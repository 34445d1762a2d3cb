"""`mixlab keys`, and that no address which others reach is listened on before there is one."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner, Result

from api.settings import Settings
from cli.broker import CannotStart
from cli.errors import CommandFailed
from cli.main import app
from cli.up import Stack
from mixlab.errors import Conflict, UnknownKey
from mixlab.ledger import Ledger

Mixlab = Callable[..., Result]


@pytest.fixture
def mixlab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mixlab:
    monkeypatch.setenv("MIXLAB_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *words: CliRunner().invoke(app, ["keys", *words])


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite'}")


def test_the_token_stands_alone_on_standard_output(mixlab: Mixlab, ledger: Ledger) -> None:
    made = mixlab("create", "ci", "--scope", "read", "--expires", "90d", "--max-active-jobs", "7")
    assert made.exit_code == 0
    token = made.stdout.removesuffix("\n")
    key = ledger.keys.check(token)
    assert key is not None
    assert (key.name, key.max_active_jobs, [s.value for s in key.scopes]) == ("ci", 7, ["read"])
    assert key.expires_at is not None
    assert (key.expires_at - key.created_at).days in (89, 90)
    assert token.rpartition("_")[2] not in made.stderr
    assert key.id in made.stderr


def test_without_a_scope_it_reads_and_writes(mixlab: Mixlab, ledger: Ledger) -> None:
    key = ledger.keys.check(mixlab("create", "me").stdout.strip())
    assert key is not None
    assert [scope.value for scope in key.scopes] == ["read", "write"]
    assert key.expires_at is None


def test_the_list_shows_no_secret(mixlab: Mixlab, ledger: Ledger) -> None:
    tokens = [mixlab("create", name).stdout.strip() for name in ("first", "[red]second")]
    plain, as_json = mixlab("list"), mixlab("list", "--json")
    for token in tokens:
        assert token.rpartition("_")[2] not in plain.output + as_json.output
    assert "[red]second" in plain.output
    shown = json.loads(as_json.stdout)
    assert [key["name"] for key in shown] == ["first", "[red]second"]
    assert all(key["id"] in plain.output for key in shown)
    assert not [name for name in shown[0] if "sha" in name or "secret" in name]


def test_rotating_and_revoking(mixlab: Mixlab, ledger: Ledger) -> None:
    first = mixlab("create", "ci").stdout.strip()
    key = ledger.keys.check(first)
    assert key is not None
    second = mixlab("rotate", key.id, "--grace", "1d").stdout.strip()
    assert ledger.keys.check(first) is not None
    third = mixlab("rotate", key.id).stdout.strip()
    assert ledger.keys.check(first) is None
    assert ledger.keys.check(second) is None
    assert ledger.keys.check(third) is not None
    # A leaked token is at hand where its id isn't.
    revoked = mixlab("revoke", third)
    assert revoked.exit_code == 0
    assert third.rpartition("_")[2] not in revoked.output
    assert ledger.keys.check(third) is None
    assert isinstance(mixlab("rotate", key.id).exception, Conflict)
    assert isinstance(mixlab("revoke", "key_1").exception, UnknownKey)


def test_what_makes_no_sense_is_refused_and_makes_nothing(mixlab: Mixlab, ledger: Ledger) -> None:
    for words in (
        ("create", ""), ("create", " "), ("create", "x" * 201), ("create", "a\nb"),
        ("create", "a", "--expires", "soon"), ("create", "a", "--expires", "-1d"),
        ("create", "a", "--expires", "99999d"), ("create", "a", "--expires", "0d"),
        ("create", "a", "--scope", "root"), ("create", "a", "--max-active-jobs", "0"),
        ("create", "a", "--max-active-jobs", "2147483648"),
        ("rotate", "key_1", "--grace", "x"), ("revoke",),
    ):  # fmt: skip
        told = mixlab(*words)
        assert told.exit_code != 0, words
        assert isinstance(told.exception, SystemExit | CommandFailed), words
    assert ledger.keys.all() == []


def test_only_a_first_key_makes_a_ledger_and_says_where(mixlab: Mixlab, tmp_path: Path) -> None:
    elsewhere = tmp_path / "mistyped"
    for words in (("list",), ("revoke", "key_1"), ("rotate", "key_1")):
        told = mixlab(*words, "--home", str(elsewhere))
        assert isinstance(told.exception, CommandFailed), words
        assert str(elsewhere) in str(told.exception)
    assert not elsewhere.exists()
    assert (
        str(elsewhere / "ledger.sqlite") in mixlab("create", "a", "--home", str(elsewhere)).stderr
    )
    assert "ledger.sqlite" not in mixlab("create", "b", "--home", str(elsewhere)).stderr


def test_a_ledger_that_is_away_is_told_without_its_password(
    mixlab: Mixlab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIXLAB_DATABASE_URL", "postgresql://me:hunter2@127.0.0.1:1/x")
    told = mixlab("list")
    assert isinstance(told.exception, CommandFailed)
    assert "hunter2" not in f"{told.output} {told.exception}"


# Addresses


def test_which_addresses_are_this_machines_alone() -> None:
    for host in ("127.0.0.1", "localhost", "::1", "127.9.9.9"):
        assert Settings(host=host).only_local, host
    for host in ("0.0.0.0", "::", "10.0.0.1", "no-such-host.invalid", "203.0.113.7"):
        assert not Settings(host=host).only_local, host
    with pytest.raises(ValidationError):
        Settings(host="")


def test_mixlab_up_refuses_an_address_that_others_reach_before_there_is_a_key(
    tmp_path: Path, mixlab: Mixlab
) -> None:
    for host in ("0.0.0.0", "::"):
        with pytest.raises(CannotStart, match="mixlab keys create"):
            Stack(tmp_path, host=host).start()
    assert not (tmp_path / "logs" / "api.log").exists()


@pytest.mark.service
def test_the_api_alone_refuses_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXLAB_HOME", str(tmp_path))
    monkeypatch.setenv("MIXLAB_HOST", "0.0.0.0")
    monkeypatch.setenv("MIXLAB_PORT", "0")
    done = subprocess.run(
        [sys.executable, "-m", "api"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 78
    assert "mixlab keys create NAME" in done.stderr
    assert "running on" not in done.stderr

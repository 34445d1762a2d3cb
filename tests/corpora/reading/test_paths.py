"""What a path policy refuses, and how files stay safe to open."""

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlab.corpora.reading import paths
from mixlab.corpora.reading.paths import PathPolicy, open_local
from mixlab.errors import MissingFile, PathNotAllowed


@pytest.fixture
def root(tmp_path: Path) -> Path:
    inside = tmp_path / "root"
    (inside / "deep").mkdir(parents=True)
    (inside / "deep" / "a.txt").write_text("inside")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_text("secret")
    return inside


def read(policy: PathPolicy, location: str) -> str:
    with policy.open_file(policy.check(location)) as file:
        return file.read().decode()


def test_a_file_inside_a_root_is_read_under_its_normal_name(root: Path) -> None:
    policy = PathPolicy((root,))
    assert policy.check(f"file://{root}//deep/./a.txt") == str(root / "deep" / "a.txt")
    assert policy.check(f"file://localhost{root}/deep/") == str(root / "deep")
    assert policy.check(f"LOCAL://{root}") == policy.check(str(root)) == str(root)
    assert read(policy, f"{root}/deep/a.txt") == "inside"


def test_a_file_outside_every_root_is_refused_whether_it_exists_or_not(root: Path) -> None:
    policy = PathPolicy((root,))
    for path in ("outside/secret.txt", "outside/none.txt", "root2/a.txt", "."):
        with pytest.raises(PathNotAllowed, match="allowed"):
            policy.check(str(root.parent / path))
    with pytest.raises(PathNotAllowed, match="MIXLAB_DATA_ROOTS"):
        PathPolicy().check(str(root / "deep" / "a.txt"))


@pytest.mark.parametrize(
    "spelling",
    [
        "",
        " ",
        "deep/a.txt",
        "~/a.txt",
        "{root}/../outside/secret.txt",
        "{root}/deep/..",
        "{root}/%2e%2e/outside/secret.txt",
        "{root}/%252e%252e/outside/secret.txt",
        "{root}/..\\outside\\secret.txt",
        "{root}/deep\\a.txt",
        "{root}/deep/a.txt\0.jsonl",
        "{root}/deep/a.txt\n",
        "file://{root}/../outside/secret.txt",
        "file://example.org{root}/deep/a.txt",
        "file://deep/a.txt",
        "file:{root}/deep/a.txt",
        "simplecache::file://{root}/../outside/secret.txt",
        "memory::file://{root}/deep/a.txt",
    ],
)
def test_a_path_that_another_layer_could_read_otherwise_is_refused(
    root: Path, spelling: str
) -> None:
    policy = PathPolicy((root,), remote_schemes=("memory", "simplecache", "file"))
    with pytest.raises(PathNotAllowed):
        policy.check(spelling.format(root=root))


def test_opening_without_a_check_first_can_not_climb_out_either(root: Path) -> None:
    policy = PathPolicy((root,))
    with pytest.raises(PathNotAllowed):
        policy.open_file(f"{root}/../outside/secret.txt")
    with pytest.raises(PathNotAllowed):
        policy.open_folder(f"{root}/..")


def test_a_link_below_the_root_is_refused_wherever_it_points(root: Path) -> None:
    (root / "file").symlink_to(root / "deep" / "a.txt")
    (root / "folder").symlink_to(root / "deep")
    (root / "away").symlink_to(root.parent / "outside")
    policy = PathPolicy((root,))
    for path in ("file", "folder", "folder/a.txt", "away/secret.txt", "away"):
        with pytest.raises(PathNotAllowed, match="symbolic link"):
            policy.check(str(root / path))
        with pytest.raises(PathNotAllowed, match="symbolic link"):
            policy.open_file(str(root / path))


def test_a_root_that_is_reached_through_a_link_works_by_both_names(root: Path) -> None:
    alias = root.parent / "alias"
    alias.symlink_to(root)
    for given_root in (root, alias):
        policy = PathPolicy((given_root,))
        assert read(policy, f"{alias}/deep/a.txt") == read(policy, f"{root}/deep/a.txt") == "inside"


def test_a_folder_swapped_for_a_link_after_the_check_is_not_followed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = PathPolicy((root,))
    checked = policy.check(str(root / "deep" / "a.txt"))
    (root.parent / "outside" / "a.txt").write_text("secret")
    look = os.stat

    def swap_after_look(path: str, *, dir_fd: int, follow_symlinks: bool) -> os.stat_result:
        found = look(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
        if path == "deep":
            (root / "deep").rename(root / "old")
            (root / "deep").symlink_to(root.parent / "outside")
        return found

    monkeypatch.setattr(paths.os, "stat", swap_after_look)
    with pytest.raises(MissingFile):
        policy.open_file(checked)


def test_a_fifo_put_there_after_the_look_is_refused_and_does_not_hang(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = os.stat

    def swap_after_look(path: str, *, dir_fd: int, follow_symlinks: bool) -> os.stat_result:
        found = look(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
        if path == "a.txt":
            (root / "deep" / "a.txt").unlink()
            os.mkfifo(root / "deep" / "a.txt")
        return found

    monkeypatch.setattr(paths.os, "stat", swap_after_look)
    with pytest.raises(PathNotAllowed, match="FIFO"):
        PathPolicy((root,)).open_file(str(root / "deep" / "a.txt"))


def test_what_is_no_regular_file_is_refused_with_and_without_a_policy(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")  # an absolute path may be too long
    for policy in (PathPolicy((root,)), None):
        for name, kind in (("fifo", "FIFO"), ("socket", "socket"), ("deep", "folder")):
            with pytest.raises(PathNotAllowed, match=kind):
                open_local(str(root / name), policy)
    for policy in (PathPolicy((Path("/dev"),)), None):
        with pytest.raises(PathNotAllowed, match="device"):
            open_local("/dev/null", policy)


def test_a_missing_file_inside_a_root_says_so(root: Path) -> None:
    policy = PathPolicy((root, root.parent / "never_made"))
    for path in ("none.txt", "none/a.txt", "deep/a.txt/b.txt", "x" * 300):
        with pytest.raises(MissingFile):
            policy.check(str(root / path))
    with pytest.raises(MissingFile):
        policy.check(str(root.parent / "never_made" / "a.txt"))
    for path in (str(root / "none.txt"), "a\0b"):
        with pytest.raises(MissingFile):
            open_local(path, None)


def test_remote_schemes_are_closed_until_named() -> None:
    with pytest.raises(PathNotAllowed, match="MIXLAB_REMOTE_SCHEMES"):
        PathPolicy().check("s3://bucket/a.jsonl")
    policy = PathPolicy(remote_schemes=("s3", "gs://pile/clean/"))
    for url in (
        "s3://bucket/a.jsonl",
        "S3://bucket/a.jsonl",
        "gs://pile/clean/x",
        "gs://pile/clean",
    ):
        assert policy.check(url) == url
    for url in ("gs://pile/other", "gs://pile/cleaner", "gs://pile/clean/../x", "memory://a"):
        with pytest.raises(PathNotAllowed):
            policy.check(url)


def test_schemes_whose_connections_nobody_watches_are_refused_even_if_named() -> None:
    schemes = (
        "http",
        "https",
        "ftp",
        "sftp",
        "webhdfs",
        "hf",
        "github",
        "smb",
        "dask",
        "reference",
    )
    policy = PathPolicy(remote_schemes=schemes)
    for url in ("http://169.254.169.254/latest/meta-data", "https://example.org/a.jsonl"):
        with pytest.raises(PathNotAllowed, match="never read here"):
            policy.check(url)
    for scheme in schemes:
        with pytest.raises(PathNotAllowed, match="never read here"):
            policy.check(f"{scheme}://place/a.jsonl")


@pytest.mark.parametrize(
    "rest",
    [
        "user:secret@evil.example/a", "evil@bucket/a", "bucket:9000/a", "[::1]/a", "bucket?x=1",
        "bucket/a?versionId=1", "bucket/a#b", "bucket/*", "arn:aws:s3:::bucket/a", "", "///a",
        "-b/a",
    ],
)  # fmt: skip
def test_a_remote_url_is_a_bucket_and_a_key_and_nothing_else(rest: str) -> None:
    with pytest.raises(PathNotAllowed):
        PathPolicy(remote_schemes=("s3",)).check(f"s3://{rest}")


NAMES = st.sampled_from(
    ["root", "deep", "a.txt", "outside", "secret.txt", "..", ".", "", "link", "%2e%2e"]
)


@settings(deadline=None)  # the machine may be busy
@given(
    parts=st.lists(NAMES | st.text(max_size=4), max_size=6), prefix=st.sampled_from(["", "file://"])
)
def test_no_spelling_reads_what_lies_outside(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], prefix: str
) -> None:
    base = tmp_path_factory.getbasetemp() / "spellings"
    inside = base / "root"
    if not base.exists():
        (inside / "deep").mkdir(parents=True)
        (inside / "deep" / "a.txt").write_text("inside")
        (base / "outside").mkdir()
        (base / "outside" / "secret.txt").write_text("secret")
        (inside / "link").symlink_to(base / "outside")
    policy = PathPolicy((inside,))
    try:
        checked = policy.check(prefix + str(base) + "/" + "/".join(parts))
    except (PathNotAllowed, MissingFile):
        return
    assert Path(checked).resolve().is_relative_to(inside)
    assert os.path.realpath(checked) == checked

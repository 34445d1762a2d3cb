"""Small wheels, npm tarballs and Debian packages, and clients that serve them from a folder."""

import gzip
import hashlib
import io
import lzma
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

Files = Mapping[str, bytes | str]


def _bytes(content: bytes | str) -> bytes:
    return content.encode() if isinstance(content, str) else content


def make_wheel(folder: Path, name: str, files: Files, *, version: str = "1.0") -> Path:
    info = f"{name}-{version}.dist-info"
    metadata = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/LICENSE": f"The licence of {name}.\n",
        f"{info}/RECORD": "",
    }
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in {**metadata, **files}.items():
            archive.writestr(zipfile.ZipInfo(path), _bytes(content), zipfile.ZIP_DEFLATED)
    return wheel


def tar_of(files: Files, *, extra: tuple[tarfile.TarInfo, ...] = ()) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(_bytes(content))
            archive.addfile(entry, io.BytesIO(_bytes(content)))
        for entry in extra:
            archive.addfile(entry)
    return buffer.getvalue()


def make_npm(file: Path, files: Files, *, extra: tuple[tarfile.TarInfo, ...] = ()) -> Path:
    file.write_bytes(gzip.compress(tar_of(files, extra=extra), mtime=0))
    return file


def make_deb(file: Path, files: Files, *, extra: tuple[tarfile.TarInfo, ...] = ()) -> Path:
    data = tar_of({f"./{path}": content for path, content in files.items()}, extra=extra)
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": lzma.compress(tar_of({"./control": "Package: x\n"})),
        "data.tar.xz": lzma.compress(data),
    }
    with file.open("wb") as stream:
        stream.write(b"!<arch>\n")
        for name, content in members.items():
            header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n"
            stream.write(header.encode() + content + b"\n" * (len(content) % 2))
    return file


def link(path: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(path)
    entry.type, entry.linkname = kind, target
    return entry


def make_client(folder: Path, name: str, serves: Path) -> None:
    """An executable in `folder` that leaves a copy of `serves` where it was started."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / name
    script.write_text(f"#!/bin/sh\n/bin/cp '{serves}' .\n")
    script.chmod(0o755)


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()

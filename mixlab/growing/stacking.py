"""Growth of a model in depth, from one file of weights to another, byte by byte.

    stack        0 1 2 0 1 2     whole blocks repeated: M o M o ... o M, the method
    interleave   0 0 1 1 2 2     each block beside its copies
    zero         0 1 2 0 1 2     a stack whose new blocks add nothing: the same function

Embedding, final norm and head are carried over once. "stack" is what arXiv 2405.15319 found best
and keeps no function: the loss jumps at the growth. The others are there to compare with it.

A block adds its attention's output and its feed-forward's to the stream, so that zeroes in
`attention.output` and `ffn.down` make it add nothing.

Files are safetensors: the length of a header as 8 bytes, the header in JSON, then the tensors'
bytes. They are copied in chunks, so that no model is held in memory, whatever its size and types.
Source: tongxuluo/prts at bf6f7747, `prts_lit/scaling/stackingpt.py`.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, get_args

from safetensors import SafetensorError, safe_open

from mixlab.corpora.files import file_sha256, write_atomically
from mixlab.errors import InvalidRecipe, MissingFile, NotWritten, TruncatedFile
from mixlab.growing.planning import Operator
from mixlab.recipes.noted import NOTE, noted_architecture, noted_run
from mixlab.recipes.shape import whole

BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
INTO_STREAM = ("attention.output.weight", "ffn.down.weight")
CHUNK_BYTES = 1 << 24
ALIGNED_BYTES = 8  # what headers are filled up to, for tensors to begin at whole words


@dataclass(frozen=True)
class _Source:
    """A file of weights: its header, and where the tensors' bytes begin."""

    file: Path
    tensors: dict[str, dict[str, Any]]  # dtype, shape, data_offsets by name
    metadata: dict[str, str]
    begin: int

    @property
    def layers(self) -> int:
        """Blocks of the model. Raises InvalidRecipe where it has none, or lacks some."""
        found = [match for match in map(BLOCK.fullmatch, self.tensors) if match]
        parts: dict[int, set[str]] = {}
        for match in found:
            parts.setdefault(int(match[1]), set()).add(match[2])
        alike = all(own == parts.get(0) for own in parts.values())
        if not parts or set(parts) != set(range(len(parts))) or not alike:
            raise InvalidRecipe(
                f"{self.file} has the blocks {sorted(parts)}, and a model has blocks 0, 1, ... "
                "without a gap and all alike; give the weights of a run, an import or an heir."
            )
        return len(parts)


def grow(weights: Path, out: Path, factor: int, operator: Operator = "stack") -> Path:
    """Write `out`, a model `factor` times as deep as that in `weights`; both safetensors.

    Its metadata "run" says the shape and what it was grown from, by sha256. `out` appears whole
    or not at all, and is the same for the same file. Raises InvalidRecipe for a factor below 2,
    an unknown operator or weights without blocks, MissingFile, TruncatedFile for a file that
    can't be read, and NotWritten where the disk doesn't take it.
    """
    _check(weights, out, factor, operator)
    source = _opened(weights)
    header, pieces = _planned(source, source.layers, factor, operator)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, lambda path: _write(path, source, header, pieces))
    except OSError as problem:
        raise NotWritten(
            f"{out} couldn't be written ({problem}); make room, or name another folder."
        ) from problem
    return out


def blocks_of(layers: int, factor: int, operator: Operator = "stack") -> list[int]:
    """Which block of the small model each block of the large one is, in order."""
    if operator == "interleave":
        return [block // factor for block in range(layers * factor)]
    return [block % layers for block in range(layers * factor)]


def _check(weights: Path, out: Path, factor: int, operator: str) -> None:
    if not whole(factor, 2):
        raise InvalidRecipe(f"A model grows by a whole factor of at least 2, not {factor!r}.")
    if operator not in get_args(Operator):
        raise InvalidRecipe(f"Models grow by {', '.join(get_args(Operator))}, not by {operator!r}.")
    if not weights.is_file():
        raise MissingFile(f"There are no weights {weights} to grow; train the small model first.")
    if out.exists() and out.samefile(weights):
        raise InvalidRecipe(f"{out} can't be grown into itself; name another file.")


def _opened(file: Path) -> _Source:
    """The file's header, once safetensors has found it sound."""
    try:
        with safe_open(file, framework="numpy"):
            pass
        with file.open("rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            header = json.loads(handle.read(length))
    except (SafetensorError, OSError, ValueError) as problem:
        raise TruncatedFile(f"{file} can't be read ({problem}); make it again.") from problem
    return _Source(file, header, header.pop("__metadata__", {}), 8 + length)


def _planned(
    source: _Source, layers: int, factor: int, operator: Operator
) -> tuple[dict[str, Any], list[tuple[str, bool]]]:
    """The header of what is grown, and its tensors in order: whose bytes each has, or zeroes."""
    header: dict[str, Any] = {"__metadata__": _metadata(source, layers, factor, operator)}
    pieces, end = [], 0
    for name, of, zero in _tensors(source, layers, factor, operator):
        first, last = source.tensors[of]["data_offsets"]
        header[name] = {**source.tensors[of], "data_offsets": [end, end + last - first]}
        pieces.append((of, zero))
        end += last - first
    return header, pieces


def _tensors(
    source: _Source, layers: int, factor: int, operator: Operator
) -> Iterator[tuple[str, str, bool]]:
    """Name in the large model, name in the small one, and whether it is set to zero."""
    parts = [
        found[2] for found in map(BLOCK.fullmatch, source.tensors) if found and found[1] == "0"
    ]
    for name in source.tensors:
        if not BLOCK.fullmatch(name):
            yield name, name, False
    for block, of in enumerate(blocks_of(layers, factor, operator)):
        for part in parts:
            zero = operator == "zero" and block >= layers and part in INTO_STREAM
            yield f"blocks.{block}.{part}", f"blocks.{of}.{part}", zero


def _metadata(source: _Source, layers: int, factor: int, operator: str) -> dict[str, str]:
    """What the large file says of itself; nothing that depends on when it was made."""
    grown: dict[str, Any] = {
        "grown_from": {
            "sha256": file_sha256(source.file), "layers": layers, "factor": factor,
            "operator": operator,
        }
    }  # fmt: skip
    run = noted_run(source.metadata, source.file)
    if run is not None:
        shape = noted_architecture(run, source.file)
        grown["architecture"] = {**shape, "layers": layers * factor}
    return {NOTE: json.dumps(grown)}


def _write(
    path: Path, source: _Source, header: dict[str, Any], pieces: list[tuple[str, bool]]
) -> None:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNED_BYTES)
    with source.file.open("rb") as read, path.open("wb") as write:
        write.write(len(text).to_bytes(8, "little") + text)
        for name, zero in pieces:
            first, last = source.tensors[name]["data_offsets"]
            read.seek(source.begin + first)
            _copy(read, write, last - first, zero=zero)


def _copy(read: BinaryIO, write: BinaryIO, count: int, *, zero: bool) -> None:
    while count > 0:
        size = min(count, CHUNK_BYTES)
        chunk = bytes(size) if zero else read.read(size)
        if not chunk:
            raise OSError("the small model's file ended while it was read")
        write.write(chunk)
        count -= len(chunk)

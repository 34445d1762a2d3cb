"""Counts of adjacent token pairs on a torch device: the same as counts.py has, to the last one.

A pair becomes one key, (first - half) << bits | second: 32 bits where ids fit in 16, else 64.
Taking half of the range away makes signed keys order as the ids do. `torch.unique` sorts the
keys alone, on CUDA by radix in a few passes over memory, and counts equal ones.

Chunks are as large as free memory lets them be, so that most shards are one; a chunk ends with the
first token of the next, so no pair is lost between two. Parts are merged by counts.py.

Rate: a 32-bit key is read and written some ten times, 40 to 80 bytes, so a device with terabytes
per second is bound by the copy from the host: 2 bytes a token over a bus of tens of GB/s. No figure
of a GPU has been measured yet; `make bench-train` has the row.
Limits: exact for ids up to 2^32 - 1. The only room of entropy that loads torch.
"""

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mixlab.entropy import counts
from mixlab.entropy.counts import PairCounts, Tokens

# Bytes on the device per token of a chunk: ids, both masks, keys, and the sort's own copies.
BYTES_PER_TOKEN = {16: 40, 32: 80}
USED = 0.8  # of free memory
CPU_CHUNK_TOKENS = 1 << 24


def count_blocks(
    tokens: Tokens,
    starts: npt.ArrayLike,
    end_of_text_id: int | None = None,
    *,
    blocks: int = 1,
    device: torch.device | None = None,
) -> list[PairCounts]:
    """What `counts.count_blocks` gives, counted on the device; CUDA where there is one."""
    count = partial(count_shard, device=device)
    return counts.count_blocks(tokens, starts, end_of_text_id, blocks=blocks, count=count)


def count_shard(
    tokens: Tokens,
    starts: npt.ArrayLike,
    end_of_text_id: int | None = None,
    *,
    device: torch.device | None = None,
    chunk_tokens: int | None = None,
) -> PairCounts:
    """What `PairCounts.from_shard` gives: tokens (token,), uint16 or uint32, starts (document,).

    `chunk_tokens` is for tests; free memory decides it where it is left out.
    """
    place = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bits = 16 if tokens.dtype == np.uint16 else 32
    size = chunk_tokens or _chunk_tokens(place, bits)
    offsets = np.sort(np.asarray(starts, dtype=np.int64))
    return PairCounts.total(
        _counted(
            tokens, first, min(first + size, len(tokens)), offsets, end_of_text_id, bits, place
        )
        for first in range(0, len(tokens), size)
    )


def _chunk_tokens(device: torch.device, bits: int) -> int:
    """Tokens of a chunk that the device's free memory holds."""
    if device.type != "cuda":
        return CPU_CHUNK_TOKENS
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, int(USED * free) // BYTES_PER_TOKEN[bits])


def _counted(
    tokens: Tokens,
    first: int,
    end: int,
    starts: npt.NDArray[np.int64],
    end_of_text_id: int | None,
    bits: int,
    device: torch.device,
) -> PairCounts:
    """Pairs that begin in tokens first to end - 1, and documents that end there."""
    ids = _on(device, tokens[first : end + 1], bits)  # with the next one, where there is one
    own = end - first
    text = _is_text(ids, end_of_text_id)
    stops = _before_starts(starts, first, end, len(tokens), device)
    goes_on = ~stops
    goes_on[: len(ids) - 1] &= text[1:]
    lasts = torch.bincount(ids[:own][text[:own] & ~goes_on], minlength=int(ids.max()) + 1)
    pairs = (text[:own] & goes_on)[: len(ids) - 1]
    keys, times = _unique(ids[:-1][pairs], ids[1:][pairs], bits)
    return PairCounts(keys, times, lasts.cpu().numpy().astype(np.int64))


def _on(device: torch.device, tokens: Tokens, bits: int) -> Tensor:
    """Ids as signed numbers of twice the bits on the device, moved in the bytes that they have."""
    signed: npt.NDArray[Any] = np.array(tokens).view(np.int16 if bits == 16 else np.int32)
    wide = torch.int32 if bits == 16 else torch.int64
    return torch.from_numpy(signed).to(device).to(wide) & ((1 << bits) - 1)


def _is_text(ids: Tensor, end_of_text_id: int | None) -> Tensor:
    """False for the border between documents, which is no text, shape (id,)."""
    if end_of_text_id is None:
        return torch.ones_like(ids, dtype=torch.bool)
    return ids != end_of_text_id


def _before_starts(
    starts: npt.NDArray[np.int64], first: int, end: int, tokens: int, device: torch.device
) -> Tensor:
    """True where the next token begins a document or there is none, shape (end - first,)."""
    begin, stop = np.searchsorted(starts, [first + 1, end + 1])
    places = starts[begin:stop] - 1 - first
    marks = torch.zeros(end - first, dtype=torch.bool, device=device)
    marks[torch.from_numpy(places).to(device)] = True
    if end == tokens:
        marks[-1] = True
    return marks


def _unique(
    firsts: Tensor, seconds: Tensor, bits: int
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Distinct pairs as counts.py keys them, ascending, and how often each occurs."""
    half = 1 << (bits - 1)
    distinct, times = torch.unique(((firsts - half) << bits) | seconds, return_counts=True)
    packed = distinct.cpu().numpy().astype(np.int64)
    one, other = (packed >> bits) + half, packed & ((1 << bits) - 1)
    wide = one.astype(np.uint64) << counts.HALF | other.astype(np.uint64)
    return wide, times.cpu().numpy().astype(np.int64)

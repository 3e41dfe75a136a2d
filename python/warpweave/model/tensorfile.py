# SPDX-License-Identifier: Apache-2.0
"""Safetensors files, read and written without a second copy of a tensor.

The format (github.com/huggingface/safetensors): 8 bytes little-endian header length, a JSON header
{name: {dtype, shape, data_offsets}}, then the bytes.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import FileIO
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MAX_HEADER = 100 << 20  # the limit of the format's own implementation
_PIECE = 1 << 21  # elements converted at a time


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: where its bytes are, and what they mean."""

    name: str
    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    nbytes: int

    def rows(self, lo: int, hi: int) -> Entry:
        """The part lo to hi of the first dimension."""
        row = self.nbytes // self.shape[0]
        shape = (hi - lo, *self.shape[1:])
        return replace(self, shape=shape, start=self.start + lo * row, nbytes=(hi - lo) * row)

    def item(self, i: int) -> Entry:
        """Element i of the first dimension."""
        return replace(self.rows(i, i + 1), shape=self.shape[1:])


def read_header(path: Path) -> dict[str, Entry]:
    """Name -> Entry, every byte range checked against the file. ValueError says what is damaged."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER):
            raise ValueError(f"{path.name} is truncated or no safetensors file ({size} bytes)")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            entries = {name: _entry(path, 8 + length, name, info) for name, info in header.items()}
        except (UnicodeDecodeError, json.JSONDecodeError, AttributeError) as error:
            raise ValueError(f"{path.name} has a damaged header: {error}") from None
    end = max((entry.start + entry.nbytes for entry in entries.values()), default=0)
    if end > size:
        raise ValueError(f"{path.name} is truncated: {size} bytes of {end}")
    return entries


def _entry(path: Path, base: int, name: str, info: dict[str, Any]) -> Entry:
    try:
        begin, end = info["data_offsets"]
        shape = tuple(info["shape"])
        dtype = DTYPES[info["dtype"]]
        nbytes = prod(shape) * dtype.itemsize
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path.name} has a damaged entry for {name}: {info}") from None
    if begin < 0 or end - begin != nbytes:
        raise ValueError(f"{path.name} has a damaged entry for {name}: {info}")
    return Entry(name, path, dtype, shape, base + begin, nbytes)


class Maps:
    """Tensors that are views of files: the page cache holds their only copy, shared by all that
    map the file, and pages are read when they are first used. Writing to one is private."""

    def __init__(self) -> None:
        self._files: dict[Path, mmap.mmap] = {}

    def view(self, entries: Sequence[Entry], stacked: bool) -> Tensor | None:
        """One tensor, or several of one dtype and shape `stacked` in front. None if they are not
        at equal distances in one file, or not aligned to their elements."""
        first = entries[0]
        distances = {b.start - a.start for a, b in pairwise(entries)} or {first.nbytes}
        step, size = min(distances), first.dtype.itemsize
        alike = {(e.path, e.dtype, e.shape) for e in entries}
        if len(distances) > 1 or len(alike) > 1 or not first.nbytes or step < first.nbytes:
            return None
        if first.start % size or step % size:
            return None
        span = entries[-1].start - first.start + first.nbytes
        data = torch.frombuffer(
            self._map(first.path), dtype=torch.uint8, count=span, offset=first.start
        ).view(first.dtype)
        shape = (len(entries), *first.shape) if stacked else first.shape
        strides = [prod(first.shape[d + 1 :]) for d in range(len(first.shape))]
        return data.as_strided(shape, [step // size, *strides] if stacked else strides)

    def _map(self, path: Path) -> mmap.mmap:
        if path not in self._files:
            with path.open("rb") as file:
                self._files[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return self._files[path]


def read(entry: Entry, out: Tensor) -> None:
    """Fill a contiguous tensor of the entry's shape, of any dtype and device.

    Bytes go straight to their place, or through a small buffer where they must be converted. A
    memory map would count the pages of the file beside the copies that stacked experts need, twice
    the memory of the weights, and copying out of one is several times slower than reading.
    """
    with entry.path.open("rb", buffering=0) as file:
        file.seek(entry.start)
        if out.device.type == "cpu" and out.dtype == entry.dtype:
            _fill(file, out, entry.path)
            return
        target = out.view(-1)
        buffer = torch.empty(min(_PIECE, target.numel()), dtype=entry.dtype)
        for lo in range(0, target.numel(), _PIECE):
            piece = target[lo : lo + _PIECE]
            _fill(file, buffer[: piece.numel()], entry.path)
            piece.copy_(buffer[: piece.numel()])


def _fill(file: FileIO, t: Tensor, path: Path) -> None:
    done, view = 0, as_bytes(t)
    while done < t.nbytes:  # one read returns at most 2 GiB
        count = file.readinto(view[done:])
        if not count:
            raise ValueError(f"{path.name} became shorter while it was read")
        done += count


def as_bytes(t: Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor."""
    return memoryview((ctypes.c_char * t.nbytes).from_address(t.data_ptr())).cast("B")


def header(tensors: Sequence[tuple[str, Sequence[int], torch.dtype]]) -> tuple[bytes, list[int]]:
    """What a file of these tensors begins with, and where each starts in it."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offsets = [0]
    for name, shape, dtype in tensors:
        offsets.append(offsets[-1] + prod(shape) * dtype.itemsize)
        where = {"shape": list(shape), "data_offsets": offsets[-2:]}
        entries[name] = {"dtype": _NAMES[dtype], **where}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)  # the first tensor starts on a cache line
    return len(text).to_bytes(8, "little") + text, [8 + len(text) + at for at in offsets[:-1]]


def write(path: Path, tensors: Sequence[tuple[str, Tensor, torch.dtype]]) -> None:
    """Write (name, tensor, dtype to store it in) to one file and force it to the disk.

    Casts happen one tensor at a time, so no second copy of the file is held.
    """
    with path.open("wb") as file:
        file.write(header([(name, t.shape, dtype) for name, t, dtype in tensors])[0])
        for _, t, dtype in tensors:
            t = t.detach().to("cpu", dtype).contiguous()
            if t.numel():
                file.write(as_bytes(t))
        file.flush()
        os.fsync(file.fileno())

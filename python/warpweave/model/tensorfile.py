# SPDX-License-Identifier: Apache-2.0
"""Safetensors files: read through a memory map page by page, written without a second copy.

The format (github.com/huggingface/safetensors): 8 bytes little-endian header length, a JSON header
{name: {dtype, shape, data_offsets}}, then the bytes. Our own reader exists because a loader
that stacks experts must give the pages it has copied back: through the usual reader the whole file
stays mapped beside the copies, twice the memory of the weights.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
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
_PIECE = 1 << 21  # elements copied before their pages are given back


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: where its bytes are, and what they mean."""

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    nbytes: int


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
    return Entry(path, dtype, shape, base + begin, nbytes)


class Reader:
    """Copies tensors out of memory-mapped files, keeping a few MB of their pages resident."""

    def __init__(self) -> None:
        self._maps: dict[Path, mmap.mmap] = {}

    def copy(self, entry: Entry, out: Tensor) -> None:
        """Copy the stored tensor to a contiguous one of its shape, any dtype and device."""
        if entry.nbytes == 0:
            return
        if entry.path not in self._maps:
            with entry.path.open("rb") as file:
                # A private map: torch wants writable memory, though nothing is written here.
                self._maps[entry.path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        data = self._maps[entry.path]
        itemsize, target = entry.dtype.itemsize, out.view(-1)
        for lo in range(0, target.numel(), _PIECE):
            piece = target[lo : lo + _PIECE]
            start, nbytes = entry.start + lo * itemsize, piece.numel() * itemsize
            raw = torch.frombuffer(data, dtype=torch.uint8, count=nbytes, offset=start)
            # The format does not promise alignment, which a view of another dtype needs.
            raw = raw.clone() if start % itemsize else raw
            piece.copy_(raw.view(entry.dtype))
            page = start - start % mmap.PAGESIZE
            data.madvise(mmap.MADV_DONTNEED, page, start + nbytes - page)


def write(path: Path, tensors: Sequence[tuple[str, Tensor, torch.dtype]]) -> None:
    """Write (name, tensor, dtype to store it in) to one file and force it to the disk.

    Casts happen one tensor at a time, so no second copy of the file is held.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, t, dtype in tensors:
        end = offset + t.numel() * dtype.itemsize
        shape = list(t.shape)
        header[name] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)  # the first tensor starts on a cache line
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, t, dtype in tensors:
            t = t.detach().to("cpu", dtype).contiguous()
            if t.numel():
                file.write((ctypes.c_char * t.nbytes).from_address(t.data_ptr()))
        file.flush()
        os.fsync(file.fileno())

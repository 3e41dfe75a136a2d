# SPDX-License-Identifier: Apache-2.0
"""The addresses of TMA boxes against numpy indexing, and its swizzle against the ISA's pictures."""

from __future__ import annotations

import ctypes
import itertools
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from ptxsim.tests.tensor.library import Library, TensorError, lib

__all__ = ["lib"]

Bytes = NDArray[np.uint8]
# Type: its number in cuda.h, bits in global and in shared memory.
TYPES = {"u8": (0, 8, 8), "u16": (1, 16, 16), "f32": (7, 32, 32), "f64": (8, 64, 64),
         "b4x16": (13, 4, 4), "b4x16_p64": (14, 4, 8), "b6x16_p32": (15, 6, 8)}  # fmt: skip
SWIZZLES = {"none": 0, "32": 1, "64": 2, "128": 3, "atom32": 4, "atom32_flip8": 5, "atom64": 6}


@dataclass
class Map:
    """A tensor map over `data`, whose rows may be padded by `pad` bytes."""

    kind: str
    size: list[int]
    box: list[int]
    swizzle: str = "none"
    element_stride: list[int] = field(default_factory=lambda: [1] * 5)
    pad: int = 0

    def __post_init__(self) -> None:
        row = self.size[0] * TYPES[self.kind][1] // 8 + self.pad
        self.stride = [row]
        for extent in self.size[1:-1]:
            self.stride.append(self.stride[-1] * extent)
        rows = int(np.prod(self.size[1:], dtype=int))
        self.data = np.random.default_rng(1).integers(1, 256, rows * row, dtype=np.uint8)

    def segments(self, lib: Library, corner: list[int], shared: int, gather: bool = False) -> tuple[
        list[tuple[int, int, int, int]], int, int]:  # fmt: skip
        """Global addresses are offsets in `data`."""
        rank, base = len(self.size), 1 << 40

        def five(values: list[int]) -> list[int]:
            return values + [0] * (5 - len(values))

        numbers = [rank, TYPES[self.kind][0], SWIZZLES[self.swizzle], 0, *five(self.size),
                   *five(self.stride[: rank - 1]), *five(self.box),
                   *five(self.element_stride)]  # fmt: skip
        out, bytes_of = (ctypes.c_uint64 * (1 << 18))(), (ctypes.c_uint32 * 2)()
        count = lib.call("ptxsim_test_tma", (ctypes.c_uint64 * len(numbers))(*numbers),
                         ctypes.c_uint64(base), (ctypes.c_int32 * 5)(*five(corner)), int(gather),
                         ctypes.c_uint32(shared), out, bytes_of)  # fmt: skip
        rows = np.array(out[: 4 * count], np.uint64).astype(np.int64).reshape(count, 4)
        found = [(int(g) - base if ok else 0, int(s), int(n), int(ok)) for g, s, n, ok in rows]
        return found, int(bytes_of[0]), int(bytes_of[1])

    def load(
        self, lib: Library, corner: list[int], shared: int = 1024, gather: bool = False
    ) -> Bytes:
        """Shared memory from `shared` on after a load: 0 where it fills, 255 where nothing came."""
        segments, _, size = self.segments(lib, corner, shared, gather)
        memory, touched = np.full(1 << 18, 255, np.uint8), np.zeros(1 << 18, bool)
        for source, to, count, inside in segments:
            assert not touched[to : to + count].any()
            touched[to : to + count] = True
            memory[to : to + count] = self.data[source : source + count] if inside else 0
        rows = self.box[1] if gather else 1
        return memory[shared : shared + size * (4 // rows if gather else 1)]

    def dense(self, corner: list[int]) -> Bytes:
        """The box row by row as it would be without swizzle and gaps: 0 outside."""
        _, bits, _ = TYPES[self.kind]
        row_bytes = self.box[0] * bits // 8
        extents = [-(-b // s) for b, s in zip(self.box[1:], self.element_stride[1:], strict=False)]
        rows = []
        for place in itertools.product(*[range(e) for e in reversed(extents)]):
            steps = zip(corner[1:], reversed(place), self.element_stride[1:], strict=False)
            at = [c + p * s for c, p, s in steps]
            line = np.zeros(row_bytes, np.uint8)
            if all(0 <= a < n for a, n in zip(at, self.size[1:], strict=True)):
                start = sum(a * s for a, s in zip(at, self.stride, strict=False))
                width = self.size[0] * bits // 8
                for i in range(row_bytes):
                    column = corner[0] * bits // 8 + i
                    if 0 <= column < width:
                        line[i] = self.data[start + column]
            rows.append(line)
        return np.concatenate(rows)


def swizzled(dense: Bytes, swizzle: str, shared: int) -> Bytes:
    """Units exchange places within each line of 128 bytes by the number of the line."""
    out = np.zeros_like(dense)
    unit = {"atom32": 32, "atom32_flip8": 32, "atom64": 64}.get(swizzle, 16)
    for at in range(0, len(dense), 8):
        address = shared + at
        line, inside = divmod(address, 128)
        if swizzle in ("32", "64"):
            span = int(swizzle)
            near, index = divmod(inside, span)
            index, rest = divmod(index, 16)
            inside = near * span + (index ^ line % (span // 16)) * 16 + rest
        elif swizzle != "none":
            index, rest = divmod(inside, unit)
            inside = (index ^ line % (128 // unit)) * unit + rest
            if swizzle == "atom32_flip8" and line % 2:
                inside ^= 8
        to = line * 128 + inside - shared
        out[to : to + 8] = dense[at : at + 8]
    return out


@pytest.mark.parametrize(
    "corner", [[0] * 5, [8, 1, 2, 0, 1], [-3, -1, 1, -2, 0], [5, 3, 9, 2, 1], [100, 0, 0, 0, 0]]
)
@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["u8", "u16", "f32", "f64"])
def test_tile(lib: Library, kind: str, rank: int, corner: list[int]) -> None:
    m = Map(kind, [48, 5, 10, 4, 3][:rank], [16, 3, 4, 2, 2][:rank], pad=16)
    np.testing.assert_array_equal(m.load(lib, corner[:rank]), m.dense(corner[:rank]))
    segments, bytes_moved, size = m.segments(lib, corner[:rank], 0)
    assert bytes_moved == size == sum(s[2] for s in segments)


@pytest.mark.parametrize("shared", [1024, 1024 + 128, 2048 + 640])
@pytest.mark.parametrize("swizzle", SWIZZLES)
@pytest.mark.parametrize("corner", [[0, 0], [24, 5], [-7, -3], [60, 27]])
def test_swizzle(lib: Library, swizzle: str, corner: list[int], shared: int) -> None:
    width = {"32": 16, "64": 32}.get(swizzle, 64)
    m = Map("u16", [80, 30], [width, 17], swizzle)
    wanted = swizzled(m.dense(corner), swizzle, shared)
    # What the last, incomplete lines give up to others lies past the copy.
    whole = len(wanted) // 128 * 128
    np.testing.assert_array_equal(m.load(lib, corner, shared)[:whole], wanted[:whole])


def test_swizzle_of_the_isa(lib: Library) -> None:
    """The first lines of the repeating patterns in the figures of the ISA, 5.5.6."""

    def pattern(span: int, lines: int) -> list[list[int]]:
        table = np.zeros((lines, 8), int)
        for unit in range(8 * lines):
            to = lib.c.ptxsim_test_swizzle(unit * 16, span, 0) // 16
            table[to // 8, to % 8] = unit % 8
        return table.tolist()

    assert pattern(128, 3) == [
        [0, 1, 2, 3, 4, 5, 6, 7],
        [1, 0, 3, 2, 5, 4, 7, 6],
        [2, 3, 0, 1, 6, 7, 4, 5],
    ]
    assert pattern(64, 4) == [[0, 1, 2, 3, 4, 5, 6, 7], [1, 0, 3, 2, 5, 4, 7, 6],
                              [2, 3, 0, 1, 6, 7, 4, 5], [3, 2, 1, 0, 7, 6, 5, 4]]  # fmt: skip
    assert pattern(32, 2) == [[0, 1, 2, 3, 4, 5, 6, 7], [1, 0, 3, 2, 5, 4, 7, 6]]


def test_element_strides(lib: Library) -> None:
    m = Map("f32", [32, 20, 9], [8, 7, 5], element_stride=[1, 3, 2, 1, 1])
    for corner in ([0, 0, 0], [4, 13, 5], [-2, -4, -1]):
        np.testing.assert_array_equal(m.load(lib, corner), m.dense(corner))
    _, bytes_moved, _ = m.segments(lib, [0, 0, 0], 0)
    assert bytes_moved == 8 * 3 * 3 * 4


@pytest.mark.parametrize(("kind", "data"), [("b4x16_p64", 8), ("b6x16_p32", 12)])
@pytest.mark.parametrize("swizzle", ["none", "128"])
def test_types_with_gaps(lib: Library, kind: str, data: int, swizzle: str) -> None:
    m = Map(kind, [256, 6], [128, 4], swizzle)
    for corner in ([0, 0], [128, 3], [-128, -1]):
        lines = m.dense(corner).reshape(-1, data)
        wide = np.full((len(lines), 16), 255, np.uint8)
        wide[:, :data] = lines
        wanted = swizzled(wide.ravel(), swizzle, 1024)
        np.testing.assert_array_equal(m.load(lib, corner), wanted)
    _, bytes_moved, size = m.segments(lib, [0, 0], 1024)
    assert (bytes_moved, size) == (4 * 8 * data, 4 * 128)


def test_packed_nibbles(lib: Library) -> None:
    m = Map("b4x16", [64, 8], [32, 4])
    np.testing.assert_array_equal(m.load(lib, [32, 6]), m.dense([32, 6]))


@pytest.mark.parametrize("swizzle", ["none", "128"])
def test_gather(lib: Library, swizzle: str) -> None:
    m = Map("u16", [96, 40], [64, 1], swizzle)
    rows = [7, 39, -1, 12]
    got = m.load(lib, [48, *rows], 1024, gather=True)
    dense = np.concatenate([m.dense([48, r]) for r in rows])
    np.testing.assert_array_equal(got, swizzled(dense, swizzle, 1024))
    with pytest.raises(TensorError, match="one row"):
        Map("u16", [96, 40], [64, 2]).segments(lib, [0] * 5, 0, gather=True)


def test_segments_are_long(lib: Library) -> None:
    """Without swizzle a row is one segment, or three at the edges."""
    m = Map("u16", [128, 16], [64, 8])
    assert len(m.segments(lib, [0, 0], 0)[0]) == 8
    assert len(m.segments(lib, [96, 4], 0)[0]) == 16
    assert len(m.segments(lib, [-8, 12], 0)[0]) == 4 * 2 + 4

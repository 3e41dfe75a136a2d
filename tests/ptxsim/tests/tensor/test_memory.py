# SPDX-License-Identifier: Apache-2.0
"""ldmatrix, stmatrix, movmatrix and wgmma: fragments and layouts by formulas of their own."""

from __future__ import annotations

import ctypes
import itertools
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ptxsim.tests.tensor.fragments import BITS, a_place, chain, codes_of, family, pack, values_of
from ptxsim.tests.tensor.library import LANES, Library, TensorError, lib, ptxas_accepts

__all__ = ["lib"]
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

Array = NDArray[np.generic]


def matrix(lib: Library, text: str, rows: Array | None, registers: Array | None) -> tuple[int, ...]:
    info = (ctypes.c_int * 4)()
    pointers = [
        ctypes.c_void_p(x.ctypes.data) if x is not None else None for x in (rows, registers)
    ]
    lib.call("ptxsim_test_matrix", text.encode(), info, *pointers)
    return tuple(info)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("trans", ["", ".trans"])
def test_8x8(lib: Library, trans: str, count: int) -> None:
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 256, (32, 16), dtype=np.uint8)
    out = np.zeros((count, LANES), np.uint32)
    text = f".sync.aligned.m8n8.x{count}{trans}.shared.b16"
    assert matrix(lib, f"ldmatrix{text} v{count} a", rows, out) == (count, 8 * count, 16, 0)
    for j in range(count):
        tile = rows[8 * j : 8 * j + 8].copy().view(np.uint16)
        tile = tile.T if trans else tile
        for t in range(LANES):
            pair = tile[t // 4, 2 * (t % 4) : 2 * (t % 4) + 2]
            assert out[j, t] == int(pair[0]) | int(pair[1]) << 16
    back = np.zeros((32, 16), np.uint8)
    generic = text.replace(".shared", "")
    assert matrix(lib, f"stmatrix{generic} a v{count}", back, out) == (count, 8 * count, 16, 1)
    np.testing.assert_array_equal(back[: 8 * count], rows[: 8 * count])
    assert (back[8 * count :] == 0).all()


def packed_rows(values: Array, bits: int) -> Array:
    """16 numbers of 8, 6 or 4 bits a row, in the low bytes of 16; what follows is noise."""
    rows = np.random.default_rng(7).integers(0, 256, (len(values), 16), dtype=np.uint8)
    for row, line in zip(rows, values, strict=True):
        word = sum(int(v) << (bits * i) for i, v in enumerate(line))
        row[: 2 * bits] = np.frombuffer(word.to_bytes(2 * bits, "little"), np.uint8)
    return rows


@pytest.mark.parametrize(
    ("source", "bits"), [("b8", 8), ("b8x16.b6x16_p32", 6), ("b8x16.b4x16_p64", 4)]
)
@pytest.mark.parametrize("count", [1, 2])
def test_16x16(lib: Library, count: int, source: str, bits: int) -> None:
    rng = np.random.default_rng(2)
    values = rng.integers(0, 1 << bits, (16 * count, 16))
    out = np.zeros((2 * count, LANES), np.uint32)
    text = f"ldmatrix.sync.aligned.m16n16.x{count}.trans.shared.{source} v{2 * count} a"
    info = matrix(lib, text, packed_rows(values, bits), out)
    assert info == (2 * count, 16 * count, 2 * bits, 0)
    for j, t in itertools.product(range(count), range(LANES)):
        turned = values[16 * j : 16 * j + 16].T  # four columns of two rows of the transposed matrix
        for half in range(2):
            four = turned[t // 4 + 8 * half, 4 * (t % 4) : 4 * (t % 4) + 4]
            assert out[2 * j + half, t] == sum(int(v) << 8 * i for i, v in enumerate(four))


@pytest.mark.parametrize(("source", "bits"), [("b6x16_p32", 6), ("b4x16_p64", 4)])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_8x16(lib: Library, count: int, source: str, bits: int) -> None:
    rng = np.random.default_rng(3)
    values = rng.integers(0, 1 << bits, (8 * count, 16))
    out = np.zeros((count, LANES), np.uint32)
    text = f"ldmatrix.sync.aligned.m8n16.x{count}.shared.b8x16.{source} v{count} a"
    assert matrix(lib, text, packed_rows(values, bits), out) == (count, 8 * count, 2 * bits, 0)
    for j, t in itertools.product(range(count), range(LANES)):
        four = values[8 * j + t // 4, 4 * (t % 4) : 4 * (t % 4) + 4]
        assert out[j, t] == sum(int(v) << 8 * i for i, v in enumerate(four))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_store_16x8(lib: Library, count: int) -> None:
    rng = np.random.default_rng(4)
    registers = rng.integers(0, 1 << 32, (count, LANES), dtype=np.uint64).astype(np.uint32)
    rows = np.zeros((32, 16), np.uint8)
    text = f"stmatrix.sync.aligned.m16n8.x{count}.trans.shared.b8 a v{count}"
    assert matrix(lib, text, rows, registers) == (count, 8 * count, 16, 0)
    for j, t in itertools.product(range(count), range(LANES)):
        tile = rows[8 * j : 8 * j + 8].T  # 16 x 8, stored column by column
        e = [int(registers[j, t]) >> 8 * i & 255 for i in range(4)]
        assert tile[t // 4, 2 * (t % 4) : 2 * (t % 4) + 2].tolist() == e[:2]
        assert tile[t // 4 + 8, 2 * (t % 4) : 2 * (t % 4) + 2].tolist() == e[2:]


def test_movmatrix(lib: Library) -> None:
    rng = np.random.default_rng(5)
    tile = rng.integers(0, 1 << 16, (8, 8)).astype(np.uint16)
    source = tile.copy().view(np.uint32).ravel()
    out = np.zeros(LANES, np.uint32)
    pointers = [ctypes.c_void_p(x.ctypes.data) for x in (source, out)]
    lib.call("ptxsim_test_movmatrix", b"movmatrix.sync.aligned.m8n8.trans.b16 r r", *pointers)
    np.testing.assert_array_equal(out.view(np.uint16).reshape(8, 8), tile.T)
    for text in (
        "movmatrix.sync.aligned.m8n8.b16 r r",
        "movmatrix.sync.aligned.m8n8.trans.b16.x1 r r",
    ):
        with pytest.raises(TensorError, match="PTX line 1"):
            lib.call("ptxsim_test_movmatrix", text.encode(), *pointers)


def test_matrix_forms_of_ptxas(lib: Library, tmp_path: Path) -> None:
    forms, lines = [], []
    types = ["b16", "b8", "b8x16.b6x16_p32", "b8x16.b4x16_p64", "b8x16", "b4x16_p64"]
    shapes = [("ldmatrix", "m8n8"), ("ldmatrix", "m16n16"), ("ldmatrix", "m8n16"),
              ("ldmatrix", "m16n8"),
              ("stmatrix", "m8n8"), ("stmatrix", "m16n8"), ("stmatrix", "m16n16")]  # fmt: skip
    for (op, shape), count, trans, space, kind in itertools.product(
        shapes, (1, 2, 4), ("", ".trans"), ("", ".shared", ".shared::cta", ".global"), types
    ):
        spelling = f"{op}.sync.aligned.{shape}.x{count}{trans}{space}.{kind}"
        n = count * 2 if shape == "m16n16" else count
        vector = "{" + ",".join(f"r{i}" for i in range(n)) + "}"
        pointer = "[r100]" if "shared" in space else "[d1]"
        forms.append(f"{spelling} " + (f"v{n} a" if op == "ldmatrix" else f"a v{n}"))
        lines.append(
            f"{spelling} "
            + (f"{vector}, {pointer};" if op == "ldmatrix" else f"{pointer}, {vector};")
        )
    wanted = ptxas_accepts(lines, "sm_120a", tmp_path)
    if wanted is None:
        pytest.skip("no ptxas")
    mine = [lib.accepts("ptxsim_test_matrix", f.encode(), None, None, None) for f in forms]
    assert [f for f, m, w in zip(forms, mine, wanted, strict=True) if m != w] == []
    assert sum(wanted) > 50


# --- wgmma ---

SPANS = {0: 0, 128: 1, 64: 2, 32: 3}  # swizzle in bytes: its code in a descriptor


def descriptor(start: int, leading: int, stride: int, span: int, base_offset: int = 0) -> int:
    def encode(x: int) -> int:
        return (x & 0x3FFFF) >> 4

    fields = encode(start) | encode(leading) << 16 | encode(stride) << 32
    return fields | base_offset << 49 | SPANS[span] << 62


def lay_out(
    shared: Array, base: int, codes: Array, bits: int, span: int, mn_major: bool, step: int
) -> int:
    """Puts a matrix (rows of k elements) into shared memory as TMA would, and gives its descriptor.
    `step` counts the k extents of 32 bytes in a line, of which this is one (K-major, swizzled)."""
    rows = len(codes)
    if not mn_major:
        packed = np.zeros((rows, 32), np.uint8)
        for i, line in enumerate(codes):
            word = sum(int(v) << (bits * j) for j, v in enumerate(line))
            packed[i] = np.frombuffer(word.to_bytes(32, "little"), np.uint8)
        units = packed.reshape(rows, 2, 16)
        if span == 0:  # core matrices of 128 bytes; 8 rows, then the other half of k
            half, group = 128, 256 + 128
            for i, j in itertools.product(range(rows), range(2)):
                at = base + i // 8 * group + j * half + i % 8 * 16
                shared[at : at + 16] = units[i, j]
            return descriptor(base, half, group, 0)
        for i, j in itertools.product(range(rows), range(2)):
            line = base + i * span  # dense lines; 16-byte units exchanged by the number of the line
            unit = (2 * step + j) ^ (i * span // 128 % (span // 16))
            shared[line + 16 * unit : line + 16 * unit + 16] = units[i, j]
        return descriptor(base + 32 * step, 16, 8 * span, span)
    k = codes.shape[1]
    units = codes.T.astype(np.uint16).copy().view(np.uint8).reshape(k, rows // 8, 16)
    if span == 0:
        beside, below = 128 * 3, 128  # next 8 rows of the matrix; next 8 of k
        for i, j in itertools.product(range(k), range(rows // 8)):
            at = base + j * beside + i // 8 * below + i % 8 * 16
            shared[at : at + 16] = units[i, j]
        return descriptor(base, below, beside, 0)
    width = span // 16
    below, beside = 8 * span, 16 * span
    for i, j in itertools.product(range(k), range(rows // 8)):
        line = base + j // width * beside + i * span
        unit = (j % width) ^ (i * span // 128 % width)
        shared[line + 16 * unit : line + 16 * unit + 16] = units[i, j]
    return descriptor(base, beside, below, span)


FLOATS = [("f16", "f16", "f32"), ("f16", "f16", "f16"), ("bf16", "bf16", "f32"),
          ("tf32", "tf32", "f32"),
          *[(a, b, d) for a in ("e4m3", "e5m2") for b in ("e4m3", "e5m2")
            for d in ("f32", "f16")]]  # fmt: skip


def d_place(i: int, t: int) -> tuple[int, int]:
    """Row and column of element d_i of thread t of the warpgroup (ISA 9.7.15.5.1.1, D fragment)."""
    warp, lane = t // 32, t % 32
    row = 16 * warp + lane // 4 + (0 if i % 4 < 2 else 8)
    return row, (i // 4) * 8 + (lane % 4) * 2 + i % 2


def pack_d(codes: Array, bits: int) -> Array:
    n = codes.shape[1]
    out = np.zeros((4, n // 2 * bits // 32, LANES), np.uint32)
    for t, i in itertools.product(range(128), range(n // 2)):
        word = np.uint32(int(codes[d_place(i, t)]) << (i * bits % 32))
        out[t // 32, i * bits // 32, t % 32] |= word
    return out


def unpack_d(registers: Array, bits: int) -> Array:
    n = registers.shape[1] * 2 * 32 // bits
    codes = np.zeros((64, n), np.uint64)
    for t, i in itertools.product(range(128), range(n // 2)):
        word = int(registers[t // 32, i * bits // 32, t % 32]) >> (i * bits % 32)
        codes[d_place(i, t)] = word & ((1 << bits) - 1)
    return codes


class Wgmma:
    """One wgmma of random matrices: A and B laid out in shared memory, or A in registers."""

    def __init__(self, lib: Library, a_type: str, b_type: str, d_type: str, n: int) -> None:
        self.lib, self.a_type, self.b_type, self.d_type, self.n = lib, a_type, b_type, d_type, n
        self.bits = BITS[a_type]
        self.k = 256 // self.bits

    def run(self, a: Array, b: Array, c: Array, *, a_span: int = 128, b_span: int = 128,
            step: int = 0,
            majors: tuple[bool, bool] = (False, False), registers: bool = False, extra: str = "",
            immediates: str = "", accumulate: bool = True) -> Array:  # fmt: skip
        shared = np.random.default_rng(8).integers(0, 256, 1 << 18, dtype=np.uint8)
        a_desc = lay_out(shared, 2048, a, self.bits, a_span, majors[0], min(step, a_span // 32 - 1))
        b_desc = lay_out(
            shared, 1 << 17, b.T, self.bits, b_span, majors[1], min(step, b_span // 32 - 1)
        )
        kind = family(self.a_type)
        count = 16 * self.k // LANES
        fragments = np.zeros((4, 4, LANES), np.uint32)

        def place(i: int, g: int, q: int) -> tuple[int, int]:
            return a_place(kind, 16, self.k, i, g, q)

        for w in range(4):
            fragments[w] = pack(a[16 * w : 16 * w + 16], self.bits, count, place)
        d = pack_d(c, BITS[self.d_type])
        types = f"{self.d_type}.{self.a_type}.{self.b_type}"
        text = f"wgmma.mma_async.sync.aligned.m64n{self.n}k{self.k}{extra}.{types}"
        text += ".and.popc" if self.a_type == "b1" else ""
        text += f" v{d.shape[1]} {'v4' if registers else 'r'} r r {immediates}"
        pointers = [ctypes.c_void_p(x.ctypes.data) for x in (shared, d, fragments)]
        self.lib.call("ptxsim_test_wgmma", text.encode(), ctypes.c_uint64(a_desc),
                      ctypes.c_uint64(b_desc),
                      pointers[0], int(accumulate), pointers[1], pointers[2], 1)  # fmt: skip
        return unpack_d(d, BITS[self.d_type])


@pytest.mark.parametrize("n", [8, 24, 64, 136, 256])
@pytest.mark.parametrize(("a_type", "b_type", "d_type"), FLOATS)
def test_wgmma_float(lib: Library, a_type: str, b_type: str, d_type: str, n: int) -> None:
    rng = np.random.default_rng(6)
    w = Wgmma(lib, a_type, b_type, d_type, n)
    a = codes_of(a_type, rng.normal(size=(64, w.k)))
    b = codes_of(b_type, rng.normal(size=(w.k, n)))
    c = codes_of(d_type, rng.normal(size=(64, n)))
    start = values_of(d_type, c)
    va, vb = values_of(a_type, a), values_of(b_type, b)

    def result(start: Array, sign: float = 1) -> Array:
        exact = chain(sign * va, vb, start)
        return values_of(d_type, codes_of(d_type, exact))

    short = BITS[a_type] == 16
    plain = "i1 i1 i0 i0" if short else "i1 i1"
    got = w.run(a, b, c, immediates=plain)
    np.testing.assert_array_equal(values_of(d_type, got), result(start))
    got = w.run(a, b, c, immediates=plain, accumulate=False, a_span=32, b_span=0)
    np.testing.assert_array_equal(values_of(d_type, got), result(np.zeros((64, n))))
    for signs, sign in (("i-1 i1", -1), ("i1 i-1", -1), ("i-1 i-1", 1)):
        got = w.run(a, b, c, immediates=signs + " i0" * short, registers=True)
        np.testing.assert_array_equal(values_of(d_type, got), result(start, sign))


@pytest.mark.parametrize(("a_span", "b_span"), [*itertools.product([0, 32, 64, 128], repeat=2)])
@pytest.mark.parametrize("a_major", [False, True])
@pytest.mark.parametrize("b_major", [False, True])
def test_wgmma_layouts(
    lib: Library, a_span: int, b_span: int, a_major: bool, b_major: bool
) -> None:
    rng = np.random.default_rng(7)
    for n in (8, 64, 192):
        w = Wgmma(lib, "bf16", "bf16", "f32", n)
        a = codes_of("bf16", rng.integers(-8, 9, (64, 16)).astype(float))
        b = codes_of("bf16", rng.integers(-8, 9, (16, n)).astype(float))
        c = codes_of("f32", rng.integers(-8, 9, (64, n)).astype(float))
        wanted = values_of("bf16", a) @ values_of("bf16", b) + values_of("f32", c)
        for step in range(1 if n == 8 else 4):
            got = w.run(a, b, c, a_span=a_span, b_span=b_span, step=step, majors=(a_major, b_major),
                        immediates=f"i1 i1 i{int(a_major)} i{int(b_major)}")  # fmt: skip
            np.testing.assert_array_equal(values_of("f32", got), wanted)


@pytest.mark.parametrize("satfinite", ["", ".satfinite"])
@pytest.mark.parametrize(("a_type", "b_type"), [(a, b) for a in ("u8", "s8") for b in ("u8", "s8")])
def test_wgmma_integer(lib: Library, a_type: str, b_type: str, satfinite: str) -> None:
    rng = np.random.default_rng(9)
    w = Wgmma(lib, a_type, b_type, "s32", 32)
    a, b = rng.integers(0, 256, (64, 32)), rng.integers(0, 256, (32, 32))
    c = rng.choice([2**31 - 1, -(2**31), 0, 12345], (64, 32))
    exact = values_of(a_type, a).astype(np.int64) @ values_of(b_type, b).astype(np.int64) + c
    wanted = np.clip(exact, -(2**31), 2**31 - 1) if satfinite else exact.astype(np.int32)
    for registers in (False, True):
        got = w.run(a, b, c & 0xFFFFFFFF, registers=registers, extra=satfinite, b_span=64)
        np.testing.assert_array_equal(got.astype(np.uint32).view(np.int32), wanted)


def test_wgmma_bits(lib: Library) -> None:
    rng = np.random.default_rng(10)
    w = Wgmma(lib, "b1", "b1", "s32", 16)
    a, b = rng.integers(0, 2, (64, 256)), rng.integers(0, 2, (256, 16))
    c = rng.integers(-1000, 1000, (64, 16))
    for registers in (False, True):
        got = w.run(a, b, c & 0xFFFFFFFF, registers=registers)
        np.testing.assert_array_equal(got.astype(np.uint32).view(np.int32), a @ b + c)


BF16_N8 = b"wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 v4 r r r i1 i1 i0 i0"


def test_base_offset(lib: Library) -> None:
    """A pattern that starts in the middle of the 1024 bytes: lines count from there."""
    rng = np.random.default_rng(11)
    a, b = (codes_of("bf16", rng.integers(-8, 9, s).astype(float)) for s in ((64, 16), (16, 8)))
    shared = np.zeros(1 << 16, np.uint8)
    for base, codes in ((256, a), (0x8000 + 640, b.T)):
        lay_out(shared, base, codes, 16, 128, False, 0)
    descriptors = [descriptor(base, 16, 1024, 128, base >> 7 & 7) for base in (256, 0x8000 + 640)]
    d, fragments = np.zeros((4, 4, LANES), np.uint32), np.zeros((4, 4, LANES), np.uint32)
    lib.call("ptxsim_test_wgmma", BF16_N8,
             *map(ctypes.c_uint64, descriptors), ctypes.c_void_p(shared.ctypes.data), 0,
             ctypes.c_void_p(d.ctypes.data), ctypes.c_void_p(fragments.ctypes.data), 1)  # fmt: skip
    wanted = values_of("bf16", a) @ values_of("bf16", b)
    np.testing.assert_array_equal(values_of("f32", unpack_d(d, 32)), wanted)
    bad = descriptors[0] | 1 << 53
    with pytest.raises(TensorError, match="must be 0"):
        lib.call("ptxsim_test_wgmma", BF16_N8,
                 ctypes.c_uint64(bad), ctypes.c_uint64(0), None, 0, None, None, 1)  # fmt: skip


def test_wgmma_forms_of_ptxas(lib: Library, tmp_path: Path) -> None:
    kinds = ["f16", "bf16", "tf32", "e4m3", "e5m2", "s8", "u8", "b1"]
    forms, lines = [], []
    for n, k, d, (a, b), in_registers, tail in itertools.product(
        [*range(8, 257, 8), 12, 264], (8, 16, 32, 256), ("f16", "f32", "s32"),
        [*zip(kinds, kinds, strict=True), ("e4m3", "e5m2"), ("s8", "u8"),
         ("f16", "bf16"), ("u8", "e4m3")],
        (False, True), ([], [1, 1], [1, -1, 0], [1, 1, 0, 1]),
    ):  # fmt: skip
        if k != 256 // BITS[a] and n > 16:
            continue
        spelling = f"wgmma.mma_async.sync.aligned.m64n{n}k{k}.{d}.{a}.{b}" + ".and.popc" * (
            a == "b1"
        )
        count = n // (4 if d == "f16" else 2)
        text = f"{spelling} v{count} {'v4' if in_registers else 'r'} r r"
        forms.append(" ".join([text, *(f"i{x}" for x in tail)]))
        name = "f" if d == "f32" else "r"
        vector = "{" + ",".join(f"{name}{i}" for i in range(count)) + "}"
        first = "{r126,r127,r128,r129}" if in_registers else "d1"
        lines.append(f"{spelling} " + ", ".join([vector, first, "d2", "p0", *map(str, tail)]) + ";")
    wanted = ptxas_accepts(lines, "sm_90a", tmp_path)
    if wanted is None:
        pytest.skip("no ptxas")
    mine = [lib.accepts("ptxsim_test_wgmma_decode", f.encode(), None) for f in forms]
    assert [f for f, m, w in zip(forms, mine, wanted, strict=True) if m != w] == []
    assert sum(wanted) > 400

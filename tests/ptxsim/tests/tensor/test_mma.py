# SPDX-License-Identifier: Apache-2.0
"""mma.sync: fragments by the ISA's formulas for element i of a lane, results by numpy."""

from __future__ import annotations

import ctypes
import itertools
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from ptxsim.tests.tensor.fragments import (
    BITS,
    NARROW,
    a_place,
    b_place,
    c_place,
    chain,
    codes_of,
    family,
    pack,
    shape_of,
    unpack,
    values_of,
)  # fmt: skip
from ptxsim.tests.tensor.library import LANES, Library, TensorError, lib, ptxas_accepts

__all__ = ["lib"]
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

Array = NDArray[np.generic]
Place = tuple[int, int]


def run(
    lib: Library, text: str, a: Array, b: Array, c: Array, *,
    scales: tuple[Array, Array] | None = None, selectors: tuple[int, ...] = (0, 0, 0, 0),
) -> Array:  # fmt: skip
    """The instruction on registers; gives those of D."""
    counts = (ctypes.c_int * 5)()
    name = "ptxsim_test_mma"
    lib.call(name, text.encode(), counts, *[None] * 7, 0)
    assert [len(x) for x in (a, b, c)] == list(counts)[1:4]
    assert a.itemsize == counts[4]
    d = np.zeros((counts[0], LANES), c.dtype)
    rows = [np.ascontiguousarray(x) for x in (d, a, b, c, *(scales or ()))]
    pointers = [ctypes.c_void_p(r.ctypes.data) for r in rows]
    pointers += [None] * (6 - len(pointers))
    lib.call(name, text.encode(), counts, *pointers, (ctypes.c_int * 4)(*selectors), 1)
    return rows[0]


def operands(m: int, n: int, k: int, a_bits: int, c_bits: int) -> str:
    word = 64 if a_bits == 64 else 32
    c = m * n * c_bits // (LANES * word)
    return f"v{c} v{m * k * a_bits // (LANES * word)} v{n * k * a_bits // (LANES * word)} v{c}"


FLOAT_FORMS = [
    *[(f"m16n8k{k}", "f16", "f16", c) for k in (8, 16) for c in ("f32", "f16")],
    *[(f"m16n8k{k}", "bf16", "bf16", "f32") for k in (8, 16)],
    *[(f"m16n8k{k}", "tf32", "tf32", "f32") for k in (4, 8)],
    *[(f"m16n8k{k}", a, b, c) for k in (16, 32) for a in ("e4m3", "e5m2") for b in ("e4m3", "e5m2")
      for c in ("f32", "f16")],
]  # fmt: skip


def run_float(
    lib: Library, text: str, k: int, kind: str, a: Array, b: Array, c: Array, result: str,
    bits: int, **more: object,
) -> NDArray[np.float64]:  # fmt: skip
    """Codes of A and B and values of C through m16n8k."""
    ra = pack(a, bits, 16 * k // LANES, lambda i, g, q: a_place(kind, 16, k, i, g, q))
    rb = pack(b, bits, 8 * k // LANES, lambda i, g, q: b_place(kind, k, i, g, q))
    c_bits = BITS[result]
    rc = pack(codes_of(result, c), c_bits, 4, c_place)
    rd = run(lib, f"{text} ", ra, rb, rc, **more)  # type: ignore[arg-type]
    return values_of(result, unpack(rd, c_bits, (16, 8), c_place))


@pytest.mark.parametrize(("shape", "a_type", "b_type", "result"), FLOAT_FORMS)
def test_float(lib: Library, shape: str, a_type: str, b_type: str, result: str) -> None:
    rng = np.random.default_rng(1)
    m, n, k = shape_of(shape)
    text = f"mma.sync.aligned.{shape}.row.col.{result}.{a_type}.{b_type}.{result} "
    text += operands(m, n, k, BITS[a_type], BITS[result])
    for scale in (0.0, 1.0, 100.0):
        if scale:
            a, b = (
                codes_of(t, rng.normal(0, scale, s))
                for t, s in ((a_type, (m, k)), (b_type, (k, n)))
            )
            c = rng.normal(0, scale, (m, n))
        else:  # small integers: exact in any order
            a = codes_of(a_type, rng.integers(-4, 5, (m, k)).astype(float))
            b = codes_of(b_type, rng.integers(-4, 5, (k, n)).astype(float))
            c = rng.integers(-8, 9, (m, n)).astype(float)
        c = values_of(result, codes_of(result, c))
        got = run_float(lib, text, k, family(a_type), a, b, c, result, BITS[a_type])
        exact = values_of(a_type, a) @ values_of(b_type, b) + c
        wanted = chain(values_of(a_type, a), values_of(b_type, b), c)
        if result == "f16":
            wanted = values_of("f16", codes_of("f16", wanted))
        np.testing.assert_array_equal(got, wanted)
        if not scale:
            np.testing.assert_array_equal(got, exact)


def test_special_values(lib: Library) -> None:
    text = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 v4 v4 v2 v4"
    rng = np.random.default_rng(2)
    a = rng.integers(0, 1 << 16, (16, 16)).astype(
        np.uint16
    )  # all kinds: NaN, infinities, subnormal
    a[8:] &= 0x83FF  # subnormal rows
    b = codes_of("f16", rng.normal(0, 1, (16, 8)))
    b[:, 7] = 0x7C00
    c = np.zeros((16, 8))
    got = run_float(lib, text, 16, "f16", a, b, c, "f32", 16)
    wanted = chain(values_of("f16", a), values_of("f16", b), c)
    np.testing.assert_array_equal(got, wanted)
    assert np.isnan(got).any()
    half = "mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 v2 v4 v2 v2"
    a = codes_of("f16", np.full((16, 16), 300.0))
    got = run_float(lib, half, 16, "f16", a, codes_of("f16", np.full((16, 8), -60.0)), c, "f16", 16)
    assert (got == -np.inf).all()
    codes = np.arange(256, dtype=np.uint8)
    for element in ("e4m3", "e5m2"):
        a = np.zeros((16, 16), np.uint8)
        a[:, 3] = rng.permutation(codes)[:16]
        for start in range(0, 256, 16):
            a[:, 3] = codes[start : start + 16]
            b = np.zeros((16, 8), np.uint8)
            b[3] = codes_of(element, np.ones(8))
            text = f"mma.sync.aligned.m16n8k16.row.col.f32.{element}.{element}.f32 v4 v2 v1 v4"
            got = run_float(lib, text, 16, "8", a, b, c, "f32", 8)
            np.testing.assert_array_equal(got, np.outer(values_of(element, a[:, 3]), np.ones(8)))


def test_tf32_ignores_low_bits(lib: Library) -> None:
    rng = np.random.default_rng(3)
    a = rng.normal(size=(16, 8)).astype(np.float32).view(np.uint32)
    b = rng.normal(size=(8, 8)).astype(np.float32).view(np.uint32)
    text = "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 v4 v4 v2 v4"
    got = run_float(lib, text, 8, "tf32", a, b, np.zeros((16, 8)), "f32", 32)
    wanted = chain(values_of("tf32", a), values_of("tf32", b), np.zeros((16, 8)))
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("shape", ["m8n8k4", "m16n8k4", "m16n8k8", "m16n8k16"])
def test_double(lib: Library, shape: str) -> None:
    rng = np.random.default_rng(4)
    m, n, k = shape_of(shape)
    a, b, c = (rng.integers(-1000, 1000, s) * 0.5 for s in ((m, k), (k, n), (m, n)))
    ra = pack(a.view(np.uint64), 64, m * k // LANES, lambda i, g, q: a_place("f64", m, k, i, g, q))
    rb = pack(b.view(np.uint64), 64, n * k // LANES, lambda i, g, q: b_place("f64", k, i, g, q))
    rc = pack(c.view(np.uint64), 64, m * n // LANES, c_place)
    text = f"mma.sync.aligned.{shape}.row.col.f64.f64.f64.f64 {operands(m, n, k, 64, 64)}"
    got = unpack(run(lib, text, ra, rb, rc), 64, (m, n), c_place).view(np.float64)
    np.testing.assert_array_equal(got, a @ b + c)


INTEGER_FORMS = [
    *[(s, a, b) for s in ("m8n8k16", "m16n8k16", "m16n8k32") for a in ("u8", "s8")
      for b in ("u8", "s8")],
    *[(s, a, b) for s in ("m8n8k32", "m16n8k32", "m16n8k64") for a in ("u4", "s4")
      for b in ("u4", "s4")],
]  # fmt: skip


@pytest.mark.parametrize("satfinite", ["", ".satfinite"])
@pytest.mark.parametrize(("shape", "a_type", "b_type"), INTEGER_FORMS)
def test_integer(lib: Library, shape: str, a_type: str, b_type: str, satfinite: str) -> None:
    rng = np.random.default_rng(5)
    m, n, k = shape_of(shape)
    bits = BITS[a_type]
    a, b = (rng.integers(0, 1 << bits, s) for s in ((m, k), (k, n)))
    c = rng.integers(-(2**31), 2**31, (m, n))
    c[::2] = rng.choice([2**31 - 1, -(2**31), 2**31 - 100, 100 - 2**31], c[::2].shape)
    kind = family(a_type)
    ra = pack(a, bits, m * k // LANES, lambda i, g, q: a_place(kind, m, k, i, g, q))
    rb = pack(b, bits, n * k // LANES, lambda i, g, q: b_place(kind, k, i, g, q))
    rc = pack(c & 0xFFFFFFFF, 32, m * n // LANES, c_place)
    text = f"mma.sync.aligned.{shape}.row.col{satfinite}.s32.{a_type}.{b_type}.s32 "
    rd = run(lib, text + operands(m, n, k, bits, 32), ra, rb, rc)
    got = unpack(rd, 32, (m, n), c_place).astype(np.uint32).view(np.int32)
    exact = values_of(a_type, a).astype(np.int64) @ values_of(b_type, b).astype(np.int64) + c
    wanted = np.clip(exact, -(2**31), 2**31 - 1) if satfinite else exact.astype(np.int32)
    np.testing.assert_array_equal(got, wanted)
    assert (exact != wanted).any()


@pytest.mark.parametrize("op", ["and", "xor"])
@pytest.mark.parametrize("shape", ["m8n8k128", "m16n8k128", "m16n8k256"])
def test_bits(lib: Library, shape: str, op: str) -> None:
    rng = np.random.default_rng(6)
    m, n, k = shape_of(shape)
    a, b = rng.integers(0, 2, (m, k)), rng.integers(0, 2, (k, n))
    c = rng.integers(-1000, 1000, (m, n))
    ra = pack(a, 1, m * k // LANES, lambda i, g, q: a_place("b1", m, k, i, g, q))
    rb = pack(b, 1, n * k // LANES, lambda i, g, q: b_place("b1", k, i, g, q))
    rc = pack(c & 0xFFFFFFFF, 32, m * n // LANES, c_place)
    text = f"mma.sync.aligned.{shape}.row.col.s32.b1.b1.s32.{op}.popc {operands(m, n, k, 1, 32)}"
    got = unpack(run(lib, text, ra, rb, rc), 32, (m, n), c_place).astype(np.uint32).view(np.int32)
    both = a @ b
    count = both if op == "and" else a.sum(1)[:, None] + b.sum(0)[None] - 2 * both
    np.testing.assert_array_equal(got, count + c)


@pytest.mark.parametrize("layouts", ["row.col", "row.row", "col.col", "col.row"])
@pytest.mark.parametrize(("d_type", "c_type"), [("f16", "f16"), ("f32", "f16"), ("f32", "f32")])
def test_quad_pairs(lib: Library, layouts: str, d_type: str, c_type: str) -> None:
    rng = np.random.default_rng(7)
    a, b = rng.integers(-8, 9, (4, 8, 4)), rng.integers(-8, 9, (4, 4, 8))
    c = rng.integers(-8, 9, (4, 8, 8))
    a_layout, b_layout = layouts.split(".")

    def c_of(kind: str, lane: int, i: int) -> Place:
        if kind == "f16":
            return lane % 4 + (4 if lane >= 16 else 0), i
        row = (lane & 1) + (i & 2) + (4 if lane >= 16 else 0)
        return row, (i & 4) + (lane & 2) + (i & 1)

    def lanes_of(kind: str, codes: NDArray[np.float64]) -> Array:
        return (codes.astype(np.float16).view(np.uint16).reshape(LANES, -1, 2) if kind == "f16"
                else codes.astype(np.float32).view(np.uint32)[..., None])  # fmt: skip

    fa, fb = np.zeros((LANES, 4)), np.zeros((LANES, 4))
    fc = np.zeros((LANES, 8))
    for lane in range(LANES):
        pair, high = lane % 16 // 4, 4 if lane >= 16 else 0
        for i in range(4):
            row, col = (lane % 4 + high, i) if a_layout == "row" else (i + high, lane % 4)
            fa[lane, i] = a[pair, row, col]
            row, col = (lane % 4, i + high) if b_layout == "row" else (i, lane % 4 + high)
            fb[lane, i] = b[pair, row, col]
        for i in range(8):
            fc[lane, i] = c[pair][c_of(c_type, lane, i)]
    registers = []
    for kind, x in (("f16", fa), ("f16", fb), (c_type, fc)):
        words = lanes_of(kind, x)
        merged = words[..., 0].astype(np.uint32)
        if kind == "f16":
            merged |= words[..., 1].astype(np.uint32) << 16
        registers.append(np.ascontiguousarray(merged.T))
    counts = {"f16": 4, "f32": 8}
    text = f"mma.sync.aligned.m8n8k4.{layouts}.{d_type}.f16.f16.{c_type} "
    rd = run(lib, f"{text}v{counts[d_type]} v2 v2 v{counts[c_type]}", *registers)
    flat = rd.T.copy()
    values = flat.view(np.float16 if d_type == "f16" else np.float32).reshape(LANES, 8)
    wanted = a @ b + c
    for lane in range(LANES):
        for i in range(8):
            assert values[lane, i] == wanted[lane % 16 // 4][c_of(d_type, lane, i)]


def contained(element: str, codes: Array) -> Array:
    """In a byte: e2m1 in bits 2 to 5, six bits at the bottom; the other bits are padding."""
    junk = {"e2m1": 0xC3, "e3m2": 0xC0, "e2m3": 0xC0}.get(element, 0)
    return codes.astype(np.int64) << (2 if element == "e2m1" else 0) | junk


@pytest.mark.parametrize("result", ["f32", "f16"])
@pytest.mark.parametrize(("a_type", "b_type"), [*itertools.product(NARROW, repeat=2)])
def test_f8f6f4(lib: Library, a_type: str, b_type: str, result: str) -> None:
    rng = np.random.default_rng(8)
    a, b = (codes_of(t, rng.normal(0, 2, s)) for t, s in ((a_type, (16, 32)), (b_type, (32, 8))))
    c = values_of(result, codes_of(result, rng.normal(0, 1, (16, 8))))
    text = f"mma.sync.aligned.kind::f8f6f4.m16n8k32.row.col.{result}.{a_type}.{b_type}.{result} "
    text += operands(16, 8, 32, 8, BITS[result])
    codes = contained(a_type, a), contained(b_type, b)
    got = run_float(lib, text, 32, "8", *codes, c, result, 8)
    wanted = chain(values_of(a_type, a), values_of(b_type, b), c)
    if result == "f16":
        wanted = values_of("f16", codes_of("f16", wanted))
    np.testing.assert_array_equal(got, wanted)


SCALED = {
    "mxf8f6f4": [("1X", "ue8m0", a, b) for a in NARROW for b in NARROW],
    "mxf4": [("2X", "ue8m0", "e2m1", "e2m1"), ("", "ue8m0", "e2m1", "e2m1")],
    "mxf4nvf4": [("2X", "ue8m0", "e2m1", "e2m1"), ("4X", "ue4m3", "e2m1", "e2m1")],
}


@pytest.mark.parametrize(
    ("kind", "vec", "scale_type", "a_type", "b_type"),
    [(kind, *rest) for kind, forms in SCALED.items() for rest in forms],
)
def test_block_scale(
    lib: Library, kind: str, vec: str, scale_type: str, a_type: str, b_type: str
) -> None:
    rng = np.random.default_rng(9)
    in_bytes = kind == "mxf8f6f4"
    k, bits = (32, 8) if in_bytes else (64, 4)
    blocks = {"1X": 1, "2X": 2, "": 2, "4X": 4}[vec]
    suffix = f".scale_vec::{vec}" if vec else ""
    text = (
        f"mma.sync.aligned.m16n8k{k}.row.col.kind::{kind}.block_scale{suffix}.f32.{a_type}.{b_type}"
    )
    text += f".f32.{scale_type} {operands(16, 8, k, bits, 32)} r v2 r v2"
    for byte_a, byte_b in itertools.product(range(0, 4, blocks), repeat=2):
        for thread_a, thread_b in itertools.product(range(2), range(4)):
            a = codes_of(a_type, rng.normal(0, 2, (16, k)))
            b = codes_of(b_type, rng.normal(0, 2, (k, 8)))
            c = rng.normal(0, 1, (16, 8)).astype(np.float32).astype(np.float64)
            words = [
                rng.integers(0, 1 << 32, LANES, dtype=np.uint64).astype(np.uint32) for _ in "ab"
            ]
            if scale_type == "ue8m0":  # exponents near 1, so that sums do not vanish
                words = [(w & np.uint32(0x07070707)) + np.uint32(0x7C7C7C7C) for w in words]
            else:
                words = [w & np.uint32(0x77777777) for w in words]
            parts = [w.view(np.uint8).reshape(LANES, 4) for w in words]
            dtype = ml_dtypes.float8_e8m0fnu if scale_type == "ue8m0" else ml_dtypes.float8_e4m3fn
            scale_a, scale_b = np.zeros((16, blocks)), np.zeros((blocks, 8))
            for row in range(
                16
            ):  # lanes of the quad: the pair of thread-id-a holds rows g and g + 8
                lane = 4 * (row % 8) + 2 * thread_a + row // 8
                scale_a[row] = parts[0][lane, byte_a : byte_a + blocks].view(dtype)
            for column in range(8):
                lane = 4 * column + thread_b
                scale_b[:, column] = parts[1][lane, byte_b : byte_b + blocks].view(dtype)
            codes = (contained(a_type, a), contained(b_type, b)) if in_bytes else (a, b)
            selectors = (byte_a, thread_a, byte_b, thread_b)
            got = run_float(lib, text, k, "8" if in_bytes else "4", *codes, c, "f32", bits,
                            scales=(words[0], words[1]), selectors=selectors)  # fmt: skip
            va, vb = values_of(a_type, a), values_of(b_type, b)
            wanted = c
            step = k // blocks
            for s in range(blocks):
                part = slice(s * step, (s + 1) * step)
                dot = chain(va[:, part], vb[part], np.zeros((16, 8)))
                wanted = (
                    (wanted + dot * scale_a[:, s, None] * scale_b[s])
                    .astype(np.float32)
                    .astype(np.float64)
                )
            np.testing.assert_array_equal(got, wanted)
            if k == 64:  # e2m1 sums are exact
                near = (va * np.repeat(scale_a, step, 1)) @ (vb * np.repeat(scale_b, step, 0)) + c
                np.testing.assert_allclose(got, near, rtol=1e-5, atol=1e-3)
        if in_bytes and (a_type, b_type) != ("e4m3", "e2m1"):
            break


def test_scale_that_is_nan(lib: Library) -> None:
    text = "mma.sync.aligned.kind::mxf8f6f4.block_scale.m16n8k32.row.col.f32.e4m3.e4m3.f32.ue8m0 "
    text += "v4 v4 v2 v4 r v2 r v2"
    ones = codes_of("e4m3", np.ones((16, 32)))
    scales = np.full(LANES, 0x7F, np.uint32), np.full(LANES, 0x7F, np.uint32)
    scales[0][5] = 0xFF  # row 1 + 8
    got = run_float(lib, text, 32, "8", ones, codes_of("e4m3", np.ones((32, 8))), np.zeros((16, 8)),
                    "f32", 8, scales=scales)  # fmt: skip
    assert np.isnan(got[9]).all()
    assert (np.delete(got, 9, 0) == 32).all()


@pytest.mark.parametrize(("selectors", "what"), [
    ((1, 0, 0, 0), "byte-id-a"), ((0, 2, 0, 0), "thread-id-a"), ((0, 0, 3, 0), "byte-id-b"),
    ((0, 0, 0, 4), "thread-id-b"), ((-2, 0, 0, 0), "byte-id-a"),
])  # fmt: skip
def test_selectors(lib: Library, selectors: tuple[int, ...], what: str) -> None:
    text = "mma.sync.aligned.kind::mxf4.block_scale.m16n8k64.row.col.f32.e2m1.e2m1.f32.ue8m0 "
    text += "v4 v4 v2 v4 r v2 r v2"
    zeros = [np.zeros((n, LANES), np.uint32) for n in (4, 2, 4)]
    scales = np.zeros(LANES, np.uint32), np.zeros(LANES, np.uint32)
    with pytest.raises(TensorError, match=what):
        run(lib, text, *zeros, scales=scales, selectors=selectors)


@pytest.mark.parametrize(("text", "what"), [
    ("mma.sync.m16n8k16.row.col.f32.f16.f16.f32 v4 v4 v2 v4", "aligned"),
    ("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 v4 v2 v2 v4", "operand 1"),
    ("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32.foo v4 v4 v2 v4", "types"),
    ("mma.sync.aligned.m16n8k16.row.col.f32.foo.f16.f32 v4 v4 v2 v4", "foo"),
    ("mma.sp.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 v4 v2 v2 v4 r i0", "sparse"),
])  # fmt: skip
def test_unknown_forms(lib: Library, text: str, what: str) -> None:
    with pytest.raises(TensorError, match=f"{what}.*PTX line 1"):
        lib.call("ptxsim_test_mma", text.encode(), None, *[None] * 7, 0)


def vector(name: str, number: int) -> str:
    return "{" + ",".join(f"{name}{i}" for i in range(number)) + "}"


def test_accepts_what_ptxas_accepts(lib: Library, tmp_path: Path) -> None:
    shapes = ["m8n8k4", "m8n8k16", "m8n8k32", "m8n8k128", *[f"m16n8k{2**i}" for i in range(2, 9)]]
    floats = list(itertools.product(["f16", "f32", "f64", "s32"], ["f16", "f32", "f64", "s32"]))
    pairs = [
        (a, b) for a in BITS for b in BITS if a not in ("f32", "s32") and b not in ("f32", "s32")
    ]
    kinds = ["", "kind::f8f6f4.", "kind::mxf8f6f4.block_scale.",
             "kind::mxf4.block_scale.scale_vec::2X.",
             "kind::mxf4nvf4.block_scale.scale_vec::4X."]  # fmt: skip
    names = {"f16": "r", "f32": "f", "f64": "e", "s32": "r"}
    forms, lines = [], []
    for kind, shape, (a, b), (d, c) in itertools.product(kinds, shapes, pairs, floats):
        if (shape, a) == ("m16n8k16", "tf32"):
            continue  # ptxas takes it, the ISA does not have it
        if kind and (a not in NARROW or b not in NARROW or shape not in ("m16n8k32", "m16n8k64")):
            continue
        m, n, k = shape_of(shape)
        bits = 8 if "f8f6f4" in kind else BITS[a]
        word = 64 if a == "f64" else 32
        count = [
            max(1, x) for x in (m * k * bits // (LANES * word), n * k * bits // (LANES * word))
        ]
        ends = [m * n * (16 if x == "f16" else 32) // 1024 or 1 for x in (d, c)]
        if shape == "m8n8k4" and a == "f16":
            count, ends = [2, 2], [4 if x == "f16" else 8 for x in (d, c)]
        sat = ".satfinite" if a in ("s8", "u4") else ""
        scale = "" if "scale" not in kind else ".ue4m3" if "4X" in kind else ".ue8m0"
        bit_op = ".and.popc" if a == "b1" else ""
        spelling = f"mma.sync.aligned.{kind}{shape}.row.col{sat}.{d}.{a}.{b}.{c}{bit_op}{scale}"
        tail = " r v2 r v2" if scale else ""
        forms.append(f"{spelling} v{ends[0]} v{count[0]} v{count[1]} v{ends[1]}{tail}")
        ab = "e" if a == "f64" else "r"
        parts = [vector(names[d], ends[0]), vector(ab, count[0]), vector(ab, count[1]),
                 vector(names[c], ends[1])]  # fmt: skip
        lines.append(f"{spelling} {', '.join(parts)}{', r1, {0,0}, r2, {0,0}' if scale else ''};")
    accepted = ptxas_accepts(lines, "sm_120a", tmp_path)
    if accepted is None:
        pytest.skip("no ptxas")
    mine = [lib.accepts("ptxsim_test_mma", f.encode(), None, *[None] * 7, 0) for f in forms]
    assert [f for f, m, a in zip(forms, mine, accepted, strict=True) if m != a] == []
    assert sum(accepted) > 100

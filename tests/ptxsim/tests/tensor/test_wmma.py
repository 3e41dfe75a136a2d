# SPDX-License-Identifier: Apache-2.0
"""wmma from memory to memory: load, mma, store, against numpy."""

from __future__ import annotations

import ctypes
import itertools
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ptxsim.tests.tensor.fragments import BITS, chain, codes_of, shape_of, values_of
from ptxsim.tests.tensor.library import LANES, Library, lib, ptxas_accepts

__all__ = ["lib"]

Array = NDArray[np.generic]
SQUARE = ("m16n16k16", "m32n8k16", "m8n32k16")
# Shape, type of A and B, of C and of D.
FORMS = [
    *[(s, "f16", c, d) for s in SQUARE for c in ("f16", "f32") for d in ("f16", "f32")],
    *[(s, "bf16", "f32", "f32") for s in SQUARE],
    *[(s, t, "s32", "s32") for s in SQUARE for t in ("u8", "s8")],
    ("m16n16k8", "tf32", "f32", "f32"), ("m8n8k4", "f64", "f64", "f64"),
    ("m8n8k32", "u4", "s32", "s32"), ("m8n8k32", "s4", "s32", "s32"),
    ("m8n8k128", "b1", "s32", "s32"),
]  # fmt: skip


def registers_of(kind: str, elements: int, is_operand: bool) -> int:
    if is_operand and kind == "f16":
        return 8
    return elements * BITS[kind] // (64 if kind == "f64" else 32) // LANES


def to_memory(codes: Array, bits: int, row_major: bool, stride: int) -> NDArray[np.uint8]:
    """Codes with their leading dimension `stride` elements apart."""
    lines = codes if row_major else codes.T
    memory = np.random.default_rng(3).integers(
        0, 256, len(lines) * stride * bits // 8, dtype=np.uint8
    )
    for i, line in enumerate(lines):
        word = sum(int(v) << bits * j for j, v in enumerate(line))
        size = len(line) * bits // 8
        at = i * stride * bits // 8
        memory[at : at + size] = np.frombuffer(word.to_bytes(size, "little"), np.uint8)
    return memory


class Fragments:
    def __init__(self, lib: Library) -> None:
        self.lib = lib

    def move(self, text: str, memory: Array, stride: int, registers: Array | None = None) -> Array:
        info = (ctypes.c_int * 2)()
        self.lib.call(
            "ptxsim_test_wmma_transfer", text.encode(), info, None, ctypes.c_int64(0), None
        )
        if registers is None:
            registers = np.zeros((8, LANES), f"u{info[1]}")
        assert registers.itemsize == info[1]
        self.lib.call("ptxsim_test_wmma_transfer", text.encode(), info,
                      ctypes.c_void_p(memory.ctypes.data),
                      ctypes.c_int64(stride), ctypes.c_void_p(registers.ctypes.data))  # fmt: skip
        return registers


@pytest.mark.parametrize(("shape", "kind", "c_type", "d_type"), FORMS)
@pytest.mark.parametrize("layouts", [
    ("row", "col", "row", "row"), ("col", "row", "col", "row"), ("row", "row", "row", "col"),
    ("col", "col", "col", "col"),
])  # fmt: skip
def test_product(
    lib: Library, shape: str, kind: str, c_type: str, d_type: str, layouts: tuple[str, ...]
) -> None:
    la, lb, lc, ld = layouts
    if BITS[kind] < 8:
        la, lb = "row", "col"
    rng = np.random.default_rng(1)
    m, n, k = shape_of(shape)
    is_integer = c_type == "s32"
    if is_integer:
        a, b = (rng.integers(0, 1 << BITS[kind], s) for s in ((m, k), (k, n)))
        c = rng.integers(-(2**31), 2**31, (m, n)) & 0xFFFFFFFF
    else:
        a, b = (codes_of(kind, rng.normal(size=s)) for s in ((m, k), (k, n)))
        c = codes_of(c_type, rng.normal(size=(m, n)))
    f = Fragments(lib)
    parts = []
    for name, codes, layout, type_, operand in (("a", a, la, kind, True), ("b", b, lb, kind, True),
                                                ("c", c, lc, c_type, False)):  # fmt: skip
        inner = codes.shape[1] if layout == "row" else codes.shape[0]
        count = registers_of(type_, codes.size, operand)
        for stride, given in ((inner, -1), (inner + 128, inner + 128)):
            text = f"wmma.load.{name}.sync.aligned.{layout}.{shape}.global.{type_} v{count} a"
            text += " r" if given >= 0 else ""
            memory = to_memory(codes, BITS[type_], layout == "row", stride)
            loaded = f.move(text, memory, given)
            if given < 0:
                first = loaded
        np.testing.assert_array_equal(loaded, first)
        parts.append(loaded)
    counts = [registers_of(d_type, m * n, False), registers_of(kind, m * k, True),
              registers_of(kind, n * k, True), registers_of(c_type, m * n, False)]  # fmt: skip
    types = f"{d_type}.{c_type}" if kind == "f16" else f"{d_type}.{kind}.{kind}.{c_type}"
    op = ".xor.popc" if kind == "b1" else ""
    for flag in ("", ".satfinite") if is_integer and kind != "b1" else ("",):
        text = f"wmma.mma{op}.sync.aligned.{la}.{lb}.{shape}.{types}{flag} " + " ".join(
            f"v{x}" for x in counts
        )
        d = np.zeros_like(parts[2])
        pointers = [ctypes.c_void_p(x.ctypes.data) for x in (d, *parts)]
        lib.call("ptxsim_test_wmma", text.encode(), *pointers)
        out = np.zeros(1 << 14, np.uint8)
        inner = n if ld == "row" else m
        f.move(
            f"wmma.store.d.sync.aligned.{ld}.{shape}.{d_type} a v{counts[0]} r", out, inner + 8, d
        )
        size = BITS[d_type] // 8
        lines = m if ld == "row" else n
        table = (
            out[: lines * (inner + 8) * size].view(f"u{size}").reshape(lines, inner + 8)[:, :inner]
        )
        table = table if ld == "row" else table.T
        va, vb = values_of(kind, a), values_of(kind, b)
        if kind == "b1":
            exact = (
                va.sum(1)[:, None]
                + vb.sum(0)[None]
                - 2 * (va @ vb)
                + c.astype(np.uint32).view(np.int32)
            )
            wanted = exact.astype(np.int64).astype(np.int32)
            got = table.view(np.int32)
        elif is_integer:
            exact = (va @ vb).astype(np.int64) + c.astype(np.uint32).view(np.int32)
            wanted = np.clip(exact, -(2**31), 2**31 - 1) if flag else exact.astype(np.int32)
            got = table.view(np.int32)
        elif kind == "f64":
            np.testing.assert_allclose(
                table.view(np.float64), va @ vb + values_of("f64", c), rtol=1e-13
            )
            continue
        else:
            got = values_of(d_type, table)
            wanted = values_of(d_type, codes_of(d_type, chain(va, vb, values_of(c_type, c))))
        np.testing.assert_array_equal(got, wanted)


def vector(name: str, count: int) -> str:
    return "{" + ",".join(f"{name}{i}" for i in range(count)) + "}"


def test_forms_of_ptxas(lib: Library, tmp_path: Path) -> None:
    shapes = [*SQUARE, "m16n16k8", "m8n8k4", "m8n8k32", "m8n8k128", "m16n8k16"]
    kinds = [k for k in BITS if k != "s32"]
    letters = {"f32": "f", "f64": "e"}
    forms, lines = [], []
    for shape, kind, layout, part in itertools.product(
        shapes, [*kinds, "s32"], ("row", "col"), "abcd"
    ):
        m, n, k = shape_of(shape)
        elements = {"a": m * k, "b": n * k}.get(part, m * n)
        count = max(1, registers_of(kind, elements, part in "ab"))
        if count > 16:
            continue
        op = "store" if part == "d" else "load"
        letter = letters.get(kind, "r")
        spelling = f"wmma.{op}.{part}.sync.aligned.{layout}.{shape}.global.{kind}"
        forms.append(f"{spelling} " + (f"a v{count}" if part == "d" else f"v{count} a"))
        v = vector(letter, count)
        lines.append(f"{spelling} " + (f"[d1], {v};" if part == "d" else f"{v}, [d1];"))
    for shape, kind, la, lb, c, d in itertools.product(
        shapes,
        kinds,
        ("row", "col"),
        ("row", "col"),
        ("f16", "f32", "f64", "s32"),
        ("f16", "f32", "f64", "s32"),
    ):
        m, n, k = shape_of(shape)
        counts = [registers_of(d, m * n, False), registers_of(kind, m * k, True),
                  registers_of(kind, n * k, True), registers_of(c, m * n, False)]  # fmt: skip
        counts = [max(1, x) for x in counts]
        if max(counts) > 16:
            continue
        types = f"{d}.{c}" if kind == "f16" else f"{d}.{kind}.{kind}.{c}"
        op = ".and.popc" if kind == "b1" else ""
        spelling = f"wmma.mma{op}.sync.aligned.{la}.{lb}.{shape}.{types}"
        forms.append(f"{spelling} " + " ".join(f"v{x}" for x in counts))
        ab = letters.get(kind, "r") if kind != "f32" else "f"
        names = [letters.get(d, "r"), ab, ab, letters.get(c, "r")]
        lines.append(f"{spelling} " + ", ".join(map(vector, names, counts)) + ";")
    wanted = ptxas_accepts(lines, "sm_90", tmp_path)
    if wanted is None:
        pytest.skip("no ptxas")
    mine = [
        lib.accepts("ptxsim_test_wmma", form.encode(), *[None] * 4)
        if form.startswith("wmma.mma")
        else lib.accepts("ptxsim_test_wmma_transfer", form.encode(), *[None] * 4)
        for form in forms
    ]
    # ptxas finds the wrong widths of registers and, for f64, the wrong shapes only where nothing
    # else is wrong, so that it can be asked for what is accepted here, not for what is not.
    assert [f for f, m, w in zip(forms, mine, wanted, strict=True) if m and not w] == []
    assert sum(mine) > 100

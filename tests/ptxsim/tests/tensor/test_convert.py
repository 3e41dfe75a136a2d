# SPDX-License-Identifier: Apache-2.0
"""Formats and `cvt` against ml_dtypes, numpy and exact rounding between neighbouring values."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from ptxsim.tests.tensor.library import ROUNDINGS, Library, TensorError, lib, ptxas_accepts
from ptxsim.tests.tensor.rounding import FORMATS, inputs, round_code, special, values_of

__all__ = ["lib"]
# numpy warns where it casts signalling NaNs and values too large for the type.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

INTEGERS = {f"{s}{b}": (s == "s", b) for s in "us" for b in (8, 16, 32, 64)}


@pytest.mark.parametrize("name", FORMATS)
def test_decode(lib: Library, name: str) -> None:
    dtype, bits, _, _ = FORMATS[name]
    codes = np.arange(1 << bits, dtype=np.uint16 if bits == 16 else np.uint8)
    np.testing.assert_array_equal(lib.decode(name, codes), codes.view(dtype).astype(np.float64))


def test_decode_scales(lib: Library) -> None:
    codes = np.arange(256, dtype=np.uint8)
    wanted = codes.view(ml_dtypes.float8_e8m0fnu).astype(np.float64)
    np.testing.assert_array_equal(lib.decode("ue8m0", codes), wanted)
    wanted = (codes & 0x7F).view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    np.testing.assert_array_equal(lib.decode("ue4m3", codes), wanted)


@pytest.mark.parametrize("name", FORMATS)
def test_rounding_to_nearest_is_that_of_ml_dtypes(name: str, rng: np.random.Generator) -> None:
    """Checks the oracle of this file itself."""
    x = inputs(name, rng)
    x = x[np.abs(x) <= values_of(name)[-1]]
    wanted = x.astype(FORMATS[name][0])
    wanted = wanted.view(np.uint16 if FORMATS[name][1] == 16 else np.uint8)
    np.testing.assert_array_equal(round_code(name, x.astype(np.float64), "rn", False), wanted)


@pytest.mark.parametrize("satfinite", [False, True])
@pytest.mark.parametrize("mode", ROUNDINGS[:-1])
@pytest.mark.parametrize("name", FORMATS)
def test_encode(lib: Library, name: str, mode: str, satfinite: bool) -> None:
    rng = np.random.default_rng(1)
    x = inputs(name, rng)
    x = np.concatenate([x[:4000], x[np.isfinite(x)][-4000:]])
    wanted = special(name, x, mode, satfinite, False)
    if not satfinite and FORMATS[name][3] <= FORMATS[name][2] + 1:
        wanted = np.where(
            np.isinf(x), FORMATS[name][3] | (np.signbit(x) << (FORMATS[name][1] - 1)), wanted
        )
    got = [lib.encode(name, float(v), mode, satfinite) for v in x]
    np.testing.assert_array_equal(got, wanted)


def exact(value: Fraction, mantissa: int, least: int, mode: str) -> Fraction:
    """value rounded to mantissa + 1 bits, exponents from `least` on."""
    if value == 0:
        return value
    size = abs(value)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent += (Fraction(2) ** (exponent + 1) <= size) - (Fraction(2) ** exponent > size)
    place = Fraction(2) ** (max(exponent, least) - mantissa)
    steps, rest = divmod(size, place)
    half = place / 2
    up = {
        "rn": rest > half or (rest == half and steps % 2 == 1),
        "rz": False,
        "rm": value < 0 and rest > 0,
        "rp": value > 0 and rest > 0,
    }[mode]
    result = (steps + up) * place
    return result if value > 0 else -result


FLOATS = {"f16": (10, -14, np.float16), "bf16": (7, -126, ml_dtypes.bfloat16),
          "f32": (23, -126, np.float32), "f64": (52, -1022, np.float64)}  # fmt: skip


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
@pytest.mark.parametrize("to", FLOATS)
@pytest.mark.parametrize("source", INTEGERS)
def test_integer_to_float(lib: Library, source: str, to: str, mode: str) -> None:
    signed, bits = INTEGERS[source]
    rng = np.random.default_rng(2)
    dtype = np.dtype(f"{'i' if signed else 'u'}{bits // 8}")
    edges = [s * ((1 << b) + d) for s in (1, -1) for b in range(bits) for d in (-1, 0, 1)]
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    chosen = [e for e in edges if low <= e <= high]
    random = rng.integers(0, 256, (64, bits // 8), dtype=np.uint8).view(dtype).ravel()
    x = np.concatenate([np.array(chosen, dtype), random, np.array([low, high], dtype)])
    got = lib.convert(f"cvt.{mode}.{to}.{source} r r", x).view(FLOATS[to][2])
    mantissa, least, _ = FLOATS[to]
    wanted = [exact(Fraction(int(v)), mantissa, least, mode) for v in x]
    for v, g, w in zip(x, got, wanted, strict=True):
        g = float(g)
        if np.isinf(g):
            largest = float(np.array(0x7BFF, np.uint16).view(np.float16))
            assert to == "f16"
            assert abs(w) > largest, v
        elif to == "f16" and abs(w) > 65504:
            assert abs(g) == 65504, v
        else:
            assert Fraction(g) == w, (v, g, float(w))


def integral(x: NDArray[np.float64], mode: str) -> NDArray[np.float64]:
    functions = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
    return functions[mode](x)


@pytest.mark.parametrize("mode", ["rni", "rzi", "rmi", "rpi"])
@pytest.mark.parametrize("source", FLOATS)
@pytest.mark.parametrize("to", INTEGERS)
def test_float_to_integer(lib: Library, to: str, source: str, mode: str) -> None:
    signed, bits = INTEGERS[to]
    rng = np.random.default_rng(3)
    dtype = FLOATS[source][2]
    small = rng.normal(0, 300, 200)
    edges = [s * (2.0**b + d) for s in (1, -1) for b in (-1, 7, 8, 15, 16, 31, 32, 63, 64)
             for d in (-1, -0.5, 0, 0.5, 1)]  # fmt: skip
    halves = np.arange(-9, 9) + 0.5
    rest = [np.inf, -np.inf, np.nan, 0.0, -0.0, 1e30, -1e30, 1e-40]
    x = np.concatenate([small, edges, halves, rest]).astype(dtype)
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    indefinite = 1 << (bits - 1) if source == "f64" or bits == 64 else 0
    wanted = []
    for v in x.astype(np.float64):
        if np.isnan(v):
            wanted.append(indefinite)
        elif np.isinf(v):
            wanted.append((high if v > 0 else low) & ((1 << bits) - 1))
        else:
            wanted.append(min(max(int(integral(v, mode)), low), high) & ((1 << bits) - 1))
    got = lib.convert(f"cvt.{mode}.{to}.{source} r r", x)
    assert got.tolist() == wanted


def test_float_to_integer_flushes(lib: Library) -> None:
    x = np.array([1e-40, -1e-40, 1.5, -0.5], np.float32)
    got = lib.convert("cvt.rpi.ftz.s32.f32 r r", x).view(np.int32)
    assert got.tolist() == [0, 0, 2, 0]
    assert lib.convert("cvt.rpi.s32.f32 r r", x).view(np.int32).tolist() == [1, 0, 2, 0]
    assert lib.convert("cvt.rmi.s32.f32 r r", x).view(np.int32).tolist() == [0, -1, 1, -1]


@pytest.mark.parametrize("to", INTEGERS)
@pytest.mark.parametrize("source", INTEGERS)
def test_integer_to_integer(lib: Library, source: str, to: str) -> None:
    signed, bits = INTEGERS[source]
    rng = np.random.default_rng(4)
    dtype = np.dtype(f"{'i' if signed else 'u'}{bits // 8}")
    x = rng.integers(0, 256, (200, bits // 8), dtype=np.uint8).view(dtype).ravel()
    info = np.iinfo(dtype)
    x = np.concatenate([x, np.array([info.min, info.max, 0, 1, info.max - 1], dtype)])
    to_signed, to_bits = INTEGERS[to]
    mask = (1 << to_bits) - 1
    got = lib.convert(f"cvt.{to}.{source} r r", x)
    assert got.tolist() == [int(v) & mask for v in x]
    # A wider register is filled with the sign of a signed result.
    wide = lib.convert(f"cvt.{to}.{source} r r", x, registers=[8, bits // 8])
    extended = [v - (1 << to_bits) if to_signed and v >> (to_bits - 1) else v for v in got.tolist()]
    assert wide.tolist() == [v & (2**64 - 1) for v in extended]
    low = -(1 << (to_bits - 1)) if to_signed else 0
    high = (1 << (to_bits - to_signed)) - 1
    if low > info.min or high < info.max:
        got = lib.convert(f"cvt.sat.{to}.{source} r r", x)
        assert got.tolist() == [min(max(int(v), low), high) & mask for v in x]
    else:
        with pytest.raises(TensorError, match="sat"):
            lib.convert(f"cvt.sat.{to}.{source} r r", x)


@pytest.mark.parametrize(("flags", "modes"), [
    ("", ("rn", "rz", "rm", "rp")), (".ftz", ("rn", "rm")), (".relu", ("rn", "rz")),
    (".satfinite", ("rn", "rz")), (".relu.satfinite", ("rn", "rz")),
])  # fmt: skip
@pytest.mark.parametrize("name", ["f16", "bf16"])
def test_f32_to_16_bits(
    lib: Library, name: str, flags: str, modes: tuple[str, ...], rng: np.random.Generator
) -> None:
    x = inputs(name, rng)
    source = np.where(np.abs(x) < 2.0**-126, np.copysign(0, x), x) if "ftz" in flags else x
    for mode in modes:
        wanted = special(
            name, source.astype(np.float32), mode, "satfinite" in flags, "relu" in flags
        )
        got = lib.convert(f"cvt.{mode}{flags}.{name}.f32 r r", x)
        np.testing.assert_array_equal(got, wanted)
        if mode in ("rn", "rz") and "ftz" not in flags:
            two = lib.convert(f"cvt.{mode}{flags}.{name}x2.f32 r r r", x, x[::-1].copy())
            np.testing.assert_array_equal(two >> 16, wanted)
            np.testing.assert_array_equal(two & 0xFFFF, wanted[::-1])


@pytest.mark.parametrize("relu", ["", ".relu"])
@pytest.mark.parametrize("name", ["e5m2", "e4m3", "e3m2", "e2m3", "e2m1"])
def test_f32_to_narrow(lib: Library, name: str, relu: str, rng: np.random.Generator) -> None:
    x = inputs(name, rng)
    wanted = special(name, x, "rn", True, bool(relu))
    got = lib.convert(f"cvt.rn.satfinite{relu}.{name}x2.f32 r r r", x, x[::-1].copy())
    field = 4 if name == "e2m1" else 8
    np.testing.assert_array_equal(got >> field, wanted)
    np.testing.assert_array_equal(got & ((1 << field) - 1), wanted[::-1])
    if name not in ("e5m2", "e4m3", "e2m1"):
        return
    halves = np.arange(1 << 16, dtype=np.uint32)
    wide = (halves & 0xFFFF).astype(np.uint16).view(np.float16).astype(np.float32)
    wanted = special(name, wide, "rn", True, bool(relu))
    got = lib.convert(f"cvt.rn.satfinite{relu}.{name}x2.f16x2 r r", halves | halves << 16)
    np.testing.assert_array_equal(got & ((1 << field) - 1), wanted)
    np.testing.assert_array_equal(got >> field, wanted)


@pytest.mark.parametrize("name", ["e5m2", "e4m3", "e3m2", "e2m3", "e2m1"])
def test_narrow_to_f16(lib: Library, name: str) -> None:
    dtype, bits, _, _ = FORMATS[name]
    field = 4 if name == "e2m1" else 8
    codes = np.arange(1 << bits, dtype=np.uint8)
    halves = codes.view(dtype).astype(np.float16)
    wanted = np.where(np.isnan(halves), 0x7FFF, halves.view(np.uint16)).astype(np.uint32)
    source = codes.astype(np.uint16) << field | codes[::-1]
    got = lib.convert(f"cvt.rn.f16x2.{name}x2 r r", source)
    np.testing.assert_array_equal(got, wanted << 16 | wanted[::-1])
    positive = np.where(np.signbit(halves) & ~np.isnan(halves), 0, wanted)
    got = lib.convert(f"cvt.rn.relu.f16x2.{name}x2 r r", source)
    np.testing.assert_array_equal(got, positive << 16 | positive[::-1])


@pytest.mark.parametrize("satfinite", ["", ".satfinite"])
@pytest.mark.parametrize("mode", ["rz", "rp"])
def test_powers_of_two(lib: Library, mode: str, satfinite: str, rng: np.random.Generator) -> None:
    x = np.concatenate([
        rng.integers(0, 1 << 32, 5000, dtype=np.uint64).astype(np.uint32).view(np.float32),
        np.float32(2.0) ** np.arange(-149, 128, dtype=np.float32),
        np.array([0, np.inf, np.nan, 2.0**-127 * 1.5, 3.4e38, -2, -3, -0.0], np.float32),
    ]).astype(np.float32)  # fmt: skip

    def code(v: float) -> int:
        if np.isnan(v):
            return 255
        if abs(v) <= 2.0**-127:
            return 0
        exponent = 128 if np.isinf(v) else int(np.frexp(abs(v))[1]) - 1
        if mode == "rp" and np.isfinite(v) and 2.0**exponent < abs(v):
            exponent += 1
        return exponent + 127 if exponent <= 127 else 254 if satfinite else 255

    wanted = np.array([code(v) for v in x.astype(np.float64)])
    got = lib.convert(f"cvt.{mode}{satfinite}.ue8m0x2.f32 r r r", x, x[::-1].copy())
    np.testing.assert_array_equal(got, wanted << 8 | wanted[::-1])
    short = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)
    wanted = np.array([code(v) for v in short.astype(np.float64)])
    pair = (short.view(np.uint32) >> 16) * 0x10001
    got = lib.convert(f"cvt.{mode}{satfinite}.ue8m0x2.bf16x2 r r", pair)
    np.testing.assert_array_equal(got, wanted * 0x101)
    codes = np.arange(256, dtype=np.uint16)
    back = lib.convert("cvt.rn.bf16x2.ue8m0x2 r r", codes << 8 | codes)
    powers = codes.astype(np.uint8).view(ml_dtypes.float8_e8m0fnu).astype(ml_dtypes.bfloat16)
    bits = np.where(codes == 255, 0x7FFF, powers.view(np.uint16)).astype(np.uint32)
    np.testing.assert_array_equal(back, bits << 16 | bits)


@pytest.mark.parametrize("flags", ["", ".relu", ".satfinite", ".relu.satfinite"])
@pytest.mark.parametrize("mode", ["rn", "rz", "rna"])
def test_tf32(lib: Library, mode: str, flags: str, rng: np.random.Generator) -> None:
    if mode == "rna" and "relu" in flags:
        with pytest.raises(TensorError, match="relu"):
            lib.convert(f"cvt.rna{flags}.tf32.f32 r r", np.zeros(1, np.float32))
        return
    bits = rng.integers(0, 1 << 32, 20000, dtype=np.uint64).astype(np.uint32)
    bits = np.concatenate(
        [bits, bits & ~np.uint32(0x1FFF) | 0x1000, [0x7F800000, 0xFF800000, 0x7F7FFFFF]]
    )
    bits = bits.astype(np.uint32)
    low, rest = bits & ~np.uint32(0x1FFF), bits & 0x1FFF
    up = {"rn": (rest > 0x1000) | ((rest == 0x1000) & (low >> 13 & 1 == 1)),
          "rna": rest >= 0x1000, "rz": rest < 0}[mode]  # fmt: skip
    x = bits.view(np.float32)
    wanted = low + (up.astype(np.uint32) << 13)
    if "satfinite" in flags:
        wanted = np.where(
            wanted & 0x7FFFFFFF >= 0x7F800000, wanted & 0x80000000 | 0x7F7FE000, wanted
        )
    if "relu" in flags:
        wanted = np.where(np.signbit(x), 0, wanted)
    wanted = np.where(np.isnan(x), 0x7FFFE000, wanted)
    np.testing.assert_array_equal(lib.convert(f"cvt.{mode}{flags}.tf32.f32 r r", bits), wanted)


@pytest.mark.parametrize("name", ["f16", "bf16"])
def test_stochastic_pairs(lib: Library, name: str, rng: np.random.Generator) -> None:
    n = 13 if name == "f16" else 16
    x = inputs(name, rng)[:3000]
    for rbits in [0, 0xFFFFFFFF, *rng.integers(0, 1 << 32, 4).tolist()]:
        got = lib.convert(f"cvt.rs.{name}x2.f32 r r r r", x, x, np.full(len(x), rbits, np.uint32))
        for half in (0, 1):
            random = rbits >> 16 * half & ((1 << n) - 1)
            wanted = special(name, x, "rs", False, False, random, n)
            np.testing.assert_array_equal(got >> 16 * half & 0xFFFF, wanted)


@pytest.mark.parametrize("name", ["e5m2", "e4m3", "e3m2", "e2m3", "e2m1"])
def test_stochastic_fours(lib: Library, name: str, rng: np.random.Generator) -> None:
    x = inputs(name, rng)[-3000:]
    field = 4 if name == "e2m1" else 8
    for rbits in [0, 0xFFFFFFFF, 0x12345678, *rng.integers(0, 1 << 32, 3).tolist()]:
        random = np.full(len(x), rbits, np.uint32)
        got = lib.convert(f"cvt.rs.satfinite.{name}x4.f32 r v4 r", x, x, x, x, random)
        b = [rbits >> 8 * i & 0xFF for i in range(4)]
        pairs = (
            (b[3] << 8 | b[1], b[2] << 8 | b[0]) if field == 4 else (rbits >> 16, rbits & 0xFFFF)
        )
        for i in range(4):
            bits = f"{pairs[i // 2]:016b}"
            value = int(bits[::-1] if i % 2 == 0 else bits, 2)
            wanted = special(name, x, "rs", True, False, value, 16)
            np.testing.assert_array_equal(got >> field * (3 - i) & ((1 << field) - 1), wanted)


def test_floats_to_floats(lib: Library, rng: np.random.Generator) -> None:
    bits = rng.integers(0, 1 << 63, 5000, dtype=np.uint64) << 1
    small = rng.normal(size=3000) * 10.0 ** rng.integers(-46, 39, 3000)
    x = np.concatenate([bits.view(np.float64), small, [0.0, -0.0, np.inf, -np.inf, 1e39, -1e39]])
    nearest = x.astype(np.float32)
    above, below = nearest.astype(np.float64) > x, nearest.astype(np.float64) < x
    down = np.where(above, np.nextafter(nearest, -np.float32(np.inf)), nearest)
    up = np.where(below, np.nextafter(nearest, np.float32(np.inf)), nearest)
    zero = np.where(x > 0, down, up)
    for mode, wanted in {"rn": nearest, "rm": down, "rp": up, "rz": zero}.items():
        got = lib.convert(f"cvt.{mode}.f32.f64 r r", x).view(np.float32)
        expected = np.where(np.isinf(x), x, wanted).astype(np.float32)
        tiny = (expected == 0) & (x != 0)  # the sign of what vanishes
        expected = np.where(tiny, np.copysign(np.float32(0), x), expected).astype(np.float32)
        ok = ~np.isnan(x)
        np.testing.assert_array_equal(got.view(np.uint32)[ok], expected.view(np.uint32)[ok])
        assert (got.view(np.uint32)[~ok] == 0x7FFFFFFF).all()
        flushed = lib.convert(f"cvt.{mode}.ftz.f32.f64 r r", x).view(np.float32)
        expected = np.where(np.abs(got) < 2.0**-126, np.copysign(np.float32(0), got), got)
        np.testing.assert_array_equal(flushed[ok], expected[ok])


def test_widening_and_integral_floats(lib: Library, rng: np.random.Generator) -> None:
    codes = np.arange(1 << 16, dtype=np.uint16)
    half, brain = codes.view(np.float16), codes.view(ml_dtypes.bfloat16)
    for name, x in (("f16", half), ("bf16", brain)):
        for to, dtype in (("f32", np.float32), ("f64", np.float64)):
            got = lib.convert(f"cvt.{to}.{name} r r", codes).view(dtype)
            np.testing.assert_array_equal(got, x.astype(dtype))
        for mode in ("rni", "rzi", "rmi", "rpi"):
            got = lib.convert(f"cvt.{mode}.{name}.{name} r r", codes)
            wide = integral(x.astype(np.float64), mode)
            wanted = wide.astype(x.dtype).view(np.uint16)
            ok = ~np.isnan(wide)
            np.testing.assert_array_equal(got[ok], wanted[ok])
            assert (got[~ok] == 0x7FFF).all()
    assert lib.convert("cvt.f32.f16 r r", np.array([0xFE01], np.uint16)).tolist() == [0x7FFFFFFF]
    assert lib.convert("cvt.f32.bf16 r r", np.array([0xFF81], np.uint16)).tolist() == [0xFF810000]
    tiny = np.array([0x0001, 0x8040, 0x0080], np.uint16)
    assert lib.convert("cvt.ftz.f32.bf16 r r", tiny).tolist() == [0, 0x80000000, 0x00800000]
    x = rng.integers(0, 1 << 32, 4000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    got = lib.convert("cvt.f32.f32 r r", x)
    np.testing.assert_array_equal(got, x.view(np.uint32))
    wide = lib.convert("cvt.f64.f32 r r", x).view(np.float64)
    np.testing.assert_array_equal(wide, x.astype(np.float64))
    got = lib.convert(
        "cvt.rpi.sat.f32.f32 r r", np.array([-1.5, 0.25, 7, np.nan, -0.5], np.float32)
    )
    assert got.view(np.float32).tolist() == [0, 1, 1, 0, 0]
    assert (got[[0, 3, 4]] == 0).all()  # not -0
    got = lib.convert("cvt.sat.f32.f32 r r", np.array([-1, 0.5, 2, np.nan, np.inf], np.float32))
    assert got.view(np.float32).tolist() == [0, 0.5, 1, 0, 1]
    got = lib.convert("cvt.rn.sat.f32.s32 r r", np.array([-5, 0, 1, 9], np.int32))
    assert got.view(np.float32).tolist() == [0, 0, 1, 1]


def test_between_f16_and_bf16(lib: Library) -> None:
    codes = np.arange(1 << 16, dtype=np.uint16)
    half = codes.view(np.float16).astype(np.float32)
    for mode in ("rn", "rz", "rm", "rp"):
        got = lib.convert(f"cvt.{mode}.bf16.f16 r r", codes)
        np.testing.assert_array_equal(got, special("bf16", half, mode, False, False))
        brain = codes.view(ml_dtypes.bfloat16).astype(np.float32)
        got = lib.convert(f"cvt.{mode}.f16.bf16 r r", codes)
        np.testing.assert_array_equal(got, special("f16", brain, mode, False, False))


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize("sign", ["u", "s"])
def test_pack(lib: Library, sign: str, bits: int, rng: np.random.Generator) -> None:
    a, b = (rng.integers(-300, 300, 256) * 3 ** rng.integers(0, 9, 256) for _ in range(2))
    a, b = a.astype(np.int32), b.astype(np.int32)
    c = rng.integers(0, 1 << 32, 256, dtype=np.uint64).astype(np.uint32)
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if sign == "s" else (0, (1 << bits) - 1)
    field = (1 << bits) - 1
    pair = (np.clip(a, low, high) & field) << bits | (np.clip(b, low, high) & field)
    if bits == 16:
        got = lib.convert(f"cvt.pack.sat.{sign}16.s32 r r r", a, b)
        np.testing.assert_array_equal(got, pair.astype(np.uint32))
    else:
        got = lib.convert(f"cvt.pack.sat.{sign}{bits}.s32.b32 r r r r", a, b, c)
        np.testing.assert_array_equal(got, pair.astype(np.uint32) | c << 2 * bits)


def test_mask_and_wide_registers(lib: Library) -> None:
    x = np.arange(32, dtype=np.uint32) + 0x12FFF0
    got = lib.convert("cvt.u16.u32 r r", x, mask=0x0000FF01, before=77)
    wanted = [int(v) & 0xFFFF if 0x0000FF01 >> i & 1 else 77 for i, v in enumerate(x)]
    assert got.tolist() == wanted
    got = lib.convert("cvt.s32.s8 r r", x, registers=[4, 4])
    assert got.view(np.int32).tolist() == x.astype(np.int8).tolist()
    with pytest.raises(TensorError, match="16 bits"):
        lib.convert("cvt.u32.u32 r r", x, registers=[2, 4])
    with pytest.raises(TensorError, match="line 1"):
        lib.convert("cvt.rn.bf16x2.f32 r r r", x, x, registers=[8, 4, 4])


@pytest.mark.parametrize("text", [
    "cvt.rn.f32 r r", "cvt.rn.rz.f16.f32 r r", "cvt.rn.ftz.ftz.f16.f32 r r", "cvt.rn.f16.f32 r r r",
    "cvt.rn.bf16x2.f32 r r", "cvt.rs.satfinite.e4m3x4.f32 r r r", "cvt.rn.foo.f16.f32 r r",
    "cvt.pack.sat.u32.s32 r r r", "cvt.pack.u16.s32 r r r",
    "cvt.rn.satfinite.scaled::n2::ue8m0.s2f6x2.f32 r r r r",
])  # fmt: skip
def test_unknown_forms(lib: Library, text: str) -> None:
    with pytest.raises(TensorError, match="PTX line 1"):
        lib.convert(text, *[np.zeros(1, np.uint32)] * (len(text.split()) - 2))


def test_accepts_what_ptxas_accepts(lib: Library, tmp_path: Path) -> None:
    numbers = {"f16": "h", "bf16": "h", "f32": "f", "f64": "e", "u8": "c", "s8": "c", "u16": "h",
               "s16": "h", "u32": "r", "s32": "r", "u64": "d", "s64": "d"}  # fmt: skip
    narrow = [
        "f16x2",
        "bf16x2",
        "tf32",
        "e4m3x2",
        "e5m2x2",
        "e3m2x2",
        "e2m3x2",
        "e2m1x2",
        "ue8m0x2",
    ]
    registers = numbers | {"f16x2": "r", "bf16x2": "r", "tf32": "r", "e2m1x2": "c"}
    roundings = ["", "rn", "rna", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi"]
    names = ["ftz", "sat", "satfinite", "relu"]
    flags = [".".join(c) for n in range(3) for c in itertools.combinations(names, n)]
    pairs = [*itertools.product(numbers, numbers), *itertools.product(narrow, ["f32"]),
             *itertools.product(narrow, narrow)]  # fmt: skip
    forms, lines = [], []
    for (to, source), rounding, flag in itertools.product(pairs, roundings, flags):
        spelling = ".".join(w for w in ("cvt", rounding, flag, to, source) if w)
        two = source == "f32" and to.endswith("x2")
        forms.append(f"{spelling} r r{' r' * two}")
        d, a = registers.get(to, "h"), registers.get(source, "h")
        lines.append(f"{spelling} {d}0, {a}1{', f2' * two};")
    accepted = ptxas_accepts(lines, "sm_120a", tmp_path)
    if accepted is None:
        pytest.skip("no ptxas")
    name = "ptxsim_test_convert"
    mine = [lib.accepts(name, f.encode(), None, None, None, None, 0) for f in forms]
    assert [f for f, m, a in zip(forms, mine, accepted, strict=True) if m != a] == []
    assert sum(accepted) > 700

# SPDX-License-Identifier: Apache-2.0
"""csrc/core: conversions against ml_dtypes, vector functions against float64, the choice of ISA.

Planted faults that these tests must catch, each a wrong stand-in for a native function: truncation
instead of rounding, ties away from zero, flushed subnormals, overflow that saturates, a zero that
loses its sign (test_planted_faults).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import ml_dtypes
import numpy as np
import pytest
import torch

from warpweave import _native

numerics = _native.numerics
FULL = os.environ.get("WARPWEAVE_FULL") == "1"  # every one of the 2^32 floats instead of a sample
FORMATS = {
    "bf16": (ml_dtypes.bfloat16, np.uint16),
    "f16": (np.float16, np.uint16),
    "e4m3": (ml_dtypes.float8_e4m3fn, np.uint8),
    "e2m1": (ml_dtypes.float4_e2m1fn, np.uint8),
}
CODES = {"bf16": 1 << 16, "f16": 1 << 16, "e4m3": 1 << 8, "e2m1": 1 << 4}

Encode = Callable[[np.ndarray], np.ndarray]


def all_codes(name: str) -> np.ndarray:
    return np.arange(CODES[name], dtype=FORMATS[name][1])


@np.errstate(invalid="ignore")  # signalling NaN
def expected_values(name: str, codes: np.ndarray) -> np.ndarray:
    return codes.view(FORMATS[name][0]).astype(np.float32)


@np.errstate(over="ignore", invalid="ignore")
def expected_codes(name: str, x: np.ndarray) -> np.ndarray:
    codes = x.astype(FORMATS[name][0]).view(FORMATS[name][1])
    if name == "e2m1":  # ml_dtypes has no NaN either; ours is documented: 6 with the NaN's sign
        codes = np.where(np.isnan(x), np.where(np.signbit(x), 15, 7), codes)
    return codes.astype(FORMATS[name][1])


@np.errstate(over="ignore", invalid="ignore")  # past the largest float; signalling NaN
def adversaries(name: str, rng: np.random.Generator) -> np.ndarray:
    """Every value of the format, every midpoint, their fp32 neighbours, and random bit patterns."""
    values = expected_values(name, all_codes(name)).astype(np.float64)
    values = np.unique(values[np.isfinite(values)])
    past_the_end = values[-1] + (values[-1] - values[-2]) / 2 * np.array([-1, 1])
    middles = np.concatenate([(values[1:] + values[:-1]) / 2, past_the_end, -past_the_end])
    points = np.concatenate([values, middles]).astype(np.float32)
    near = [np.nextafter(points, np.float32(s * np.inf)) for s in (1, -1)]
    patterns = rng.integers(0, 1 << 32, size=1 << 21, dtype=np.uint32).view(np.float32)
    specials = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 1e-45, 3.4e38], np.float32)
    return np.concatenate([points, *near, -points, patterns, specials])


def check_encoder(name: str, encode: Encode, rng: np.random.Generator) -> None:
    x = adversaries(name, rng)
    got, want = encode(x), expected_codes(name, x)
    nan = np.isnan(x)
    np.testing.assert_array_equal(got[~nan], want[~nan])
    if name == "e2m1":
        np.testing.assert_array_equal(got[nan], want[nan])
    else:
        assert np.isnan(expected_values(name, got[nan])).all()
        top = 8 * got.itemsize - 1
        np.testing.assert_array_equal(got[nan] >> top, np.signbit(x[nan]))


@pytest.mark.parametrize("name", FORMATS)
def test_decode_every_code(name: str) -> None:
    codes = all_codes(name)
    got, want = getattr(numerics, f"decode_{name}")(codes), expected_values(name, codes)
    nan = np.isnan(want)
    np.testing.assert_array_equal(np.isnan(got), nan)
    np.testing.assert_array_equal(got[~nan].view(np.uint32), want[~nan].view(np.uint32))


@pytest.mark.parametrize("name", FORMATS)
def test_encode(name: str, rng: np.random.Generator) -> None:
    check_encoder(name, getattr(numerics, f"encode_{name}"), rng)


def _truncate(x: np.ndarray) -> np.ndarray:
    return (x.view(np.uint32) >> 16).astype(np.uint16)


def _ties_away(x: np.ndarray) -> np.ndarray:
    exact = numerics.encode_bf16(x)
    tie = ((x.view(np.uint32) & 0xFFFF) == 0x8000) & np.isfinite(x)
    return np.where(tie, (x.view(np.uint32) >> 16) + 1, exact).astype(np.uint16)


def _flush_subnormals(x: np.ndarray) -> np.ndarray:
    small = np.abs(x) < np.finfo(np.float32).tiny
    return numerics.encode_bf16(np.where(small, np.copysign(np.float32(0), x), x))


def _saturate(x: np.ndarray) -> np.ndarray:
    exact = numerics.encode_bf16(x)
    overflow = np.isfinite(x) & ((exact & 0x7FFF) == 0x7F80)
    return np.where(overflow, exact - 1, exact).astype(np.uint16)


def _lose_sign_of_zero(x: np.ndarray) -> np.ndarray:
    return np.where(x == 0, 0, numerics.encode_bf16(x)).astype(np.uint16)


@pytest.mark.parametrize(
    "fault", [_truncate, _ties_away, _flush_subnormals, _saturate, _lose_sign_of_zero]
)
def test_planted_faults(fault: Encode, rng: np.random.Generator) -> None:
    with pytest.raises(AssertionError):
        check_encoder("bf16", fault, rng)


@pytest.mark.parametrize("name", ["bf16", "f16"])
def test_vector_rounding_is_scalar_rounding(
    name: str, cpu_isa: str, rng: np.random.Generator
) -> None:
    x = adversaries(name, rng)
    got = numerics.vector_math(f"round_{name}", x)
    want = getattr(numerics, f"decode_{name}")(getattr(numerics, f"encode_{name}")(x))
    nan = np.isnan(x)
    assert np.isnan(got[nan]).all()
    np.testing.assert_array_equal(got[~nan].view(np.uint32), want[~nan].view(np.uint32))


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1.0) / (1.0 + e)


DEFINITIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "exp": np.exp,
    "log1p": np.log1p,
    "softplus": _softplus,
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
}


def floats(rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Every fp32 value, or 4096 of each sign and exponent and 2^20 where functions bend."""
    if FULL:
        for first in range(0, 1 << 32, 1 << 24):
            yield np.arange(first, first + (1 << 24), dtype=np.uint32).view(np.float32)
        return
    mantissa = rng.integers(0, 1 << 23, size=(512, 4096), dtype=np.uint32)
    mantissa[:, :3] = [0, 1, (1 << 23) - 1]
    yield ((np.arange(512, dtype=np.uint32)[:, None] << 23) | mantissa).ravel().view(np.float32)
    yield rng.uniform(-110, 95, size=1 << 20).astype(np.float32)
    yield rng.uniform(-2, 2, size=1 << 20).astype(np.float32)


def ulp_error(got: np.ndarray, want: np.ndarray) -> float:
    """The largest error in units of the last fp32 place of `want`; NaN and infinity must match."""
    with np.errstate(over="ignore", under="ignore"):
        rounded = want.astype(np.float32)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(rounded))
    np.testing.assert_array_equal(np.isposinf(got), np.isposinf(rounded))
    np.testing.assert_array_equal(np.isneginf(got), np.isneginf(rounded))
    live = np.isfinite(rounded)
    tiny = np.finfo(np.float32).tiny  # below it, one unit is the subnormal step
    exponent = np.frexp(np.maximum(np.abs(rounded[live]), tiny))[1]
    error = np.abs(got[live].astype(np.float64) - want[live]) / np.ldexp(1.0, exponent - 24)
    return float(error.max(initial=0.0))


@pytest.mark.parametrize("name", DEFINITIONS)
def test_vector_functions(name: str, cpu_isa: str, rng: np.random.Generator) -> None:
    for x in floats(rng):
        with np.errstate(all="ignore"):
            want = DEFINITIONS[name](x.astype(np.float64))
        assert ulp_error(numerics.vector_math(name, x), want) <= 2.0


@pytest.mark.parametrize("length", [0, 1, 3, 4, 7, 8, 15, 16, 17, 33])
def test_vector_tails(length: int, cpu_isa: str) -> None:
    x = np.linspace(-3, 3, 64, dtype=np.float32)
    whole = numerics.vector_math("silu", x)
    np.testing.assert_array_equal(numerics.vector_math("silu", x[:length]), whole[:length])


def test_vector_math_refuses_unknown_functions() -> None:
    with pytest.raises(ValueError, match="vector_math: unknown function 'tan'"):
        numerics.vector_math("tan", np.zeros(1, np.float32))


# --- The choice of ISA ---


def import_with(isa: str) -> subprocess.CompletedProcess[str]:
    program = "import torch; from warpweave import _native; print(_native.cpu_isa())"
    environment = {**os.environ, "WARPWEAVE_CPU_ISA": isa}
    environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    return subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_environment_lowers_the_isa() -> None:
    for isa in (_native.cpu_isas()[0], _native.cpu_isas()[-1]):
        assert import_with(isa).stdout.strip() == isa


def test_environment_refuses_an_unknown_isa() -> None:
    result = import_with("sse9")
    assert result.returncode != 0
    assert "WARPWEAVE_CPU_ISA: unknown ISA 'sse9'; supported: x86-64-v2, avx2" in result.stderr


ALL_ISAS = ["x86-64-v2", "avx2", "avx512", "avx512_bf16", "amx_bf16"]


def test_unsupported_isa_is_refused() -> None:
    missing = [isa for isa in ALL_ISAS if isa not in _native.cpu_isas()]
    if not missing:
        pytest.skip("this machine runs every ISA there is")
    result = import_with(missing[0])
    assert result.returncode != 0
    assert f"this machine cannot run '{missing[0]}'" in result.stderr
    with pytest.raises(ValueError, match=f"set_cpu_isa: this machine cannot run '{missing[0]}'"):
        _native.set_cpu_isa(missing[0])


def test_set_cpu_isa(cpu_isa: str) -> None:
    assert _native.cpu_isa() == cpu_isa
    with pytest.raises(ValueError, match="unknown ISA 'neon'"):
        _native.set_cpu_isa("neon")
    assert _native.cpu_isa() == cpu_isa


def test_isas_are_a_chain() -> None:
    isas = _native.cpu_isas()
    assert isas == ALL_ISAS[: len(isas)]


# --- The registry ---


def test_registry_has_the_baseline_of_every_op() -> None:
    targets: dict[str, list[str]] = {}
    for kernel in _native.kernels():
        targets.setdefault(kernel["op"], []).append(kernel["target"])
    assert {"vector_math", "causal_conv1d"} <= set(targets)
    for op, found in targets.items():
        assert "cpu:x86-64-v2" in found, op


def test_kernel_for_follows_the_isa(cpu_isa: str) -> None:
    compiled = {k["target"] for k in _native.kernels() if k["op"] == "vector_math"}
    usable = ALL_ISAS[: ALL_ISAS.index(cpu_isa) + 1]
    best = [isa for isa in usable if f"cpu:{isa}" in compiled][-1]
    assert _native.kernel_for("vector_math") == f"cpu:{best}"


def test_kernel_for_refuses_unknown_names() -> None:
    with pytest.raises(ValueError, match="kernel_for: unknown op 'fft'"):
        _native.kernel_for("fft")
    with pytest.raises(ValueError, match="unknown device 'tpu'; supported: cpu, cuda"):
        _native.kernel_for("vector_math", "tpu")


def test_kernel_for_cuda_says_what_is_missing() -> None:
    problem = _native.cuda_info()["problem"]
    if not problem:
        assert _native.kernel_for("causal_conv1d", "cuda").startswith("cuda:sm_")
        return
    assert not torch.cuda.is_available() or not _native.cuda_info()["built"]
    with pytest.raises(ValueError, match="'causal_conv1d' cannot run on cuda: ") as error:
        _native.kernel_for("causal_conv1d", "cuda")
    assert problem in str(error.value)


def test_cuda_info() -> None:
    info = _native.cuda_info()
    assert set(info) == {"built", "loaded", "archs", "cutlass", "device_count", "problem"}
    assert info["loaded"] == info["built"]
    assert bool(info["archs"]) == info["built"]
    assert bool(info["problem"]) or info["device_count"] > 0
    if not info["built"]:
        assert "no CUDA kernels" in info["problem"]
    elif torch.version.cuda is None:
        assert "CPU build" in info["problem"]
    cuda = [k for k in _native.kernels() if k["target"] == "cuda"]
    assert bool(cuda) == info["built"]
    only_hopper = [k for k in cuda if k["variant"].startswith("sm_90a")]
    assert bool(only_hopper) == bool(info["cutlass"])
    if info["device_count"] == 0:
        assert all(k["registers"] == 0 for k in cuda)
    else:
        assert all(k["registers"] > 0 for k in cuda if k not in only_hopper)
        assert all(k["local_bytes"] == 0 for k in cuda)

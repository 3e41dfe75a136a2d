# SPDX-License-Identifier: Apache-2.0
"""What the CUDA kernels of products with quantised weights have of their own: every code and scale,
every tile, and which kernel an operand takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from native import Case, check_repeatable, far_apart, run
from quant import magnitude
from warpweave import _native, ops
from warpweave import reference as ref
from warpweave import testing as kit
from warpweave.quantized import FP8Tensor, NVFP4Tensor

OP = "nvfp4_matmul"
BF16, F32, F64, E4M3 = torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn
# M, N, K, E: one row and tiles of 16 and 64; columns around 32 and 128; depths around a slice of
# 64, a stage of 256 and all stages; rows of codes on 16 bytes and on 8
SHAPES: list[tuple[int, ...]] = [
    (1, 40, 64, 1),
    (16, 33, 1280, 1),
    (9, 31, 272, 1),
    (40, 64, 320, 3),
    (70, 130, 256, 1),
    (150, 129, 336, 1),
    (200, 136, 64, 2),
    (300, 16, 48, 8),
    (4, 0, 16, 1),
    (0, 8, 16, 1),
    (7, 8, 0, 1),
    (20, 10000, 32, 2),  # more tiles than blocks
]
# Many rows a group, for what CUTLASS has: more of k than its stages hold, groups not on its tiles
MANY = [(520, 136, 192, 2), (260, 136, 704, 1), (270, 256, 128, 1)]

# Targets whose tensor cores take both operands as they are.
HAVE = {"nvfp4": ["sim:sm_120a"], "e4m3": ["sim:sm_90a", "sim:sm_120a"]}


def nvfp4(*shape: int, g: torch.Generator, scales: str = "tensor") -> NVFP4Tensor:
    *rows, K = shape
    codes = torch.randint(0, 256, (*rows, K // 2), generator=g, dtype=torch.uint8)
    blocks = kit.normal((*rows, K // 16), g, scale=max(K, 1) ** -0.5).abs().to(E4M3)
    return NVFP4Tensor(codes, blocks, scale_of(rows, g, scales))


def fp8(*shape: int, g: torch.Generator, scales: str = "tensor") -> FP8Tensor:
    data = kit.normal(shape, g, scale=max(shape[-1], 1) ** -0.5).to(E4M3)
    return FP8Tensor(data, scale_of(shape[:-1], g, scales))


def scale_of(rows: Any, g: torch.Generator, scales: str) -> Tensor:
    size = {"tensor": (), "matrix": tuple(rows[:-1]), "row": tuple(rows)}[scales]
    return 0.5 + torch.rand(size, generator=g)


def make(
    M: int, N: int, K: int, E: int, rows: str = "bfloat16", weights: str = "nvfp4",
    scales: str = "row", activation: str | None = "relu2", out: torch.dtype = BF16,
) -> Case:  # fmt: skip
    """A case of `product`."""
    g = kit.generator(f"{M}{N}{K}{E}{rows}{weights}{scales}")
    quantise = nvfp4 if weights == "nvfp4" else fp8
    a: Any = kit.with_outliers(kit.normal((M, K), g), g, 8.0)
    a = quantise(M, K, g=g, scales="row") if rows == "coded" else a.to(getattr(torch, rows))
    return {
        "a": a,
        "b": quantise(E, N, K, g=g, scales=scales),
        "offsets": kit.group_ends(M, E, g),
        "activation": activation,
        "out_dtype": out,
    }


def by_format(module: Any, a: Any, b: Any, *args: Any, **options: Any) -> Tensor:
    """The grouped product of the weights' format."""
    out: Tensor
    if isinstance(b, NVFP4Tensor):
        out = module.nvfp4_grouped_matmul(a, b, *args, **options)
    else:
        parts = (a.data, b.data, a.scale) if isinstance(a, FP8Tensor) else (a, b.data, None)
        out = module.fp8_grouped_matmul(*parts, b.scale, *args, **options)
    return out


def product(a: Any, b: Any, offsets: Tensor, activation: Any, out_dtype: torch.dtype) -> Tensor:
    return by_format(ops, a, b, offsets, activation=activation, out_dtype=out_dtype)


def expected(a: Any, b: Any, offsets: Tensor, activation: Any, out_dtype: torch.dtype) -> Tensor:
    a = a.double() if isinstance(a, Tensor) and out_dtype == F64 else a
    return by_format(ref, a, b, offsets, activation=activation, out_dtype=out_dtype)


def check_one(op: kit.Op, case: Case) -> None:
    actual, exact, plain = op(**case), expected(**case | {"out_dtype": F64}), expected(**case)
    terms = None
    if actual.dtype == F32:
        sizes = {name: magnitude(case[name]) for name in ("a", "b")}
        terms = expected(**case | sizes | {"out_dtype": F64})
    kit.assert_accurate(actual, exact, plain, terms=terms)
    if actual.dtype == BF16:
        kit.assert_unbiased(actual, exact, plain)


def check(op: kit.Op, kind: tuple[str, str] = ("bfloat16", "nvfp4")) -> None:
    rows, weights = kind
    for i, shape in enumerate([*SHAPES, *MANY] if kind == ("coded", "nvfp4") else SHAPES):
        shape = shape if weights == "nvfp4" else (*shape[:2], shape[2] + i % 3, shape[3])
        scales, activation = ("tensor", "matrix", "row")[i % 3], (None, "relu2")[i % 2]
        out = (BF16, F32)[i // 2 % 2]
        check_one(op, make(*shape, rows, weights, scales, activation, out))


FAULTS: dict[str, kit.Fault] = {
    "truncated": kit.truncate,
    "one wrong element": kit.wrong_element,
    "NaN swallowed": kit.swallow_nan,
    "next expert": kit.on_argument("b", lambda b: NVFP4Tensor(
        b.codes.roll(1, 0), b.block_scales.roll(1, 0), b.global_scale)),
    "nibbles the other way": kit.on_argument("b", lambda b: NVFP4Tensor(
        (b.codes >> 4) | (b.codes << 4), b.block_scales, b.global_scale)),
    "next block's scale": kit.on_argument("b", lambda b: NVFP4Tensor(
        b.codes, b.block_scales.view(torch.uint8).roll(1, -1).view(E4M3), b.global_scale)),
    "global scale forgotten": kit.on_argument("b", lambda b: NVFP4Tensor(
        b.codes, b.block_scales, torch.ones_like(b.global_scale))),
    "activation forgotten": kit.on_argument("activation", lambda _: None),
}  # fmt: skip


def check_with_nan(op: kit.Op) -> None:
    check(op)
    case = make(*SHAPES[3])
    case["b"].block_scales.view(torch.uint8)[1, 5, 3] = 0x7F
    check_one(op, case)


def test_planted_faults() -> None:
    kit.assert_all_caught(product, FAULTS, check_with_nan)


@pytest.mark.parametrize("weights", ["nvfp4", "e4m3"])
@pytest.mark.parametrize("rows", ["bfloat16", "float32", "coded"])
def test_accuracy(target: str, rows: str, weights: str) -> None:
    check(product, (rows, weights))


@pytest.mark.parametrize("rows", [16, 64])
def test_every_code_with_every_scale(target: str, rows: int) -> None:
    """Row k of a chooses element k, so each result is one decoded weight, without rounding. In the
    order of bytes: all scales in turn, each with all codes."""
    b = NVFP4Tensor(
        torch.tensor([lo + 16 * ((lo + 1) % 16) for lo in range(0, 16, 2)], dtype=torch.uint8)
        .repeat(256, rows // 16),
        torch.arange(256, dtype=torch.uint8)[:, None].repeat(1, rows // 16).view(E4M3),
        torch.tensor(1.0),
    )  # fmt: skip
    out = ops.nvfp4_matmul(torch.eye(rows, dtype=BF16), b, out_dtype=F32)
    values = b.dequantize().T
    assert values[:, :126].isfinite().all()
    assert values[:, [127, 255]].isnan().all()
    torch.testing.assert_close(out, values, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("rows", [16, 64])
def test_every_e4m3_weight(target: str, rows: int) -> None:
    finite = torch.tensor([i for i in range(256) if i % 128 != 127], dtype=torch.uint8)
    data = torch.stack([finite.roll(i)[:rows] for i in range(0, 254, 7)]).view(E4M3)
    eye, one = torch.eye(rows, dtype=BF16), torch.tensor(1.0)
    out = ops.fp8_matmul(eye, data, None, one, out_dtype=F32)
    torch.testing.assert_close(out, data.float().T, rtol=0, atol=0)
    with_nan = torch.zeros(rows, rows, dtype=torch.uint8)
    with_nan[range(rows), range(rows)] = torch.tensor([0x7F, 0xFF], dtype=torch.uint8).repeat(
        rows // 2
    )
    with_nan[3, 3] = 0x7E
    out = ops.fp8_matmul(eye, with_nan.view(E4M3), None, one, out_dtype=F32)
    assert out[:, [i for i in range(rows) if i != 3]].isnan().all()
    assert out[:, 3].isfinite().all()
    assert out[3, 3] == 448


@pytest.mark.parametrize("M", [12, 70])
def test_infinity_and_nan_in_rows(target: str, M: int) -> None:
    case = make(M, 40, 320, 1, activation=None, out=F32)
    case["a"][3, 5], case["a"][7, 0] = float("inf"), float("nan")
    check_one(product, case)


@pytest.mark.parametrize("weights", ["nvfp4", "e4m3"])
@pytest.mark.parametrize("rows", ["bfloat16", "coded"])
@pytest.mark.parametrize("M", [12, 90])
def test_repeatable_under_strides(
    target: str, threads: None, M: int, rows: str, weights: str
) -> None:
    case = make(M, 70, 320, 2 if weights == "nvfp4" else 1, rows, weights)
    check_repeatable(product, case)
    wanted = run(product, case)[0]

    def moved(t: Any, change: Any) -> Any:
        if isinstance(t, NVFP4Tensor):
            return NVFP4Tensor(change(t.codes), change(t.block_scales), t.global_scale)
        return FP8Tensor(change(t.data), t.scale) if isinstance(t, FP8Tensor) else change(t)

    for change in (kit.strided, lambda t: kit.strided(t, 16), lambda t: far_apart(t, multiple=16)):
        for name in ("a", "b"):
            kit.assert_same_bits(product(**case | {name: moved(case[name], change)}), wanted)


@pytest.mark.parametrize(
    ("M", "rows", "weights", "variants"),
    [
        (16, "bfloat16", "nvfp4", ["nvfp4, 16 rows"]),
        (17, "bfloat16", "nvfp4", ["nvfp4, 64 rows"]),
        (16, "bfloat16", "e4m3", ["e4m3, 16 rows"]),
        (200, "bfloat16", "e4m3", ["e4m3, 64 rows"]),
        (20, "float32", "nvfp4", ["nvfp4, 64 x 64"]),
        (20, "float32", "e4m3", ["e4m3, 64 x 64"]),
        (20, "coded", "nvfp4", ["nvfp4, decode rows", "nvfp4, 64 rows"]),
        (20, "coded", "e4m3", ["e4m3, decode rows", "e4m3, 64 rows"]),
    ],
)
def test_choice_of_kernel(
    target: str, M: int, rows: str, weights: str, variants: list[str]
) -> None:
    if target.startswith("cpu"):
        pytest.skip("there is one kernel")
    case = make(M, 40, 64, 1, rows, weights)
    has_own = rows == "coded" and target in HAVE[weights]
    if has_own:
        variants = [f"{weights} x {weights}, 64 rows"]
    _native.launches()
    product(**case)
    assert [launch["variant"] for launch in _native.launches()] == variants
    strided = case["b"].codes if weights == "nvfp4" else case["b"].data
    strided = kit.strided(strided, 3)
    moved = (
        NVFP4Tensor(strided, case["b"].block_scales, case["b"].global_scale)
        if weights == "nvfp4"
        else FP8Tensor(strided, case["b"].scale)
    )
    product(**case | {"b": moved})
    wanted = "64 x 64" if rows == "float32" else f"{16 if M <= 16 else 64} rows, unaligned"
    launches = _native.launches()
    assert launches[-1]["variant"] == f"{weights}, {wanted}"
    if has_own:
        assert launches[0]["because"] == "rows of codes are not on 16 bytes"


# --- Many rows of NVFP4: CUTLASS's kernels, where there are some ---


def two_groups(**options: Any) -> Case:
    """Of two and three tiles of rows, the last of them partly there, and one row of no group."""
    ends = torch.tensor([140, 519], dtype=torch.int32)
    return make(*MANY[0], "coded", **options) | {"offsets": ends}


def next_groups() -> Case:
    """More tiles than any device has multiprocessors, so that blocks come to other groups."""
    ends = (248 + torch.arange(20)).cumsum(0)
    return make(int(ends[-1]) + 1, 640, 128, len(ends), "coded") | {"offsets": ends}


def without_a_sign(t: NVFP4Tensor, *at: int) -> tuple[NVFP4Tensor, NVFP4Tensor]:
    """Two tensors of the same values: one block scale is negative, or its codes are."""
    scales, codes = t.block_scales.clone(), t.codes.clone()
    scales.view(torch.uint8)[at] |= 0x80
    block = (*at[:-1], slice(8 * at[-1], 8 * at[-1] + 8))
    codes[block] ^= 0x88
    return (
        NVFP4Tensor(t.codes, scales, t.global_scale),
        NVFP4Tensor(codes, t.block_scales, t.global_scale),
    )


def launches_of(case: Case) -> list[dict[str, Any]]:
    _native.launches()
    product(**case)
    return _native.launches()


@pytest.fixture
def cutlass(target: str) -> list[str]:
    """Launches of a product of many rows on a device with such kernels."""
    if target not in ("sim:sm_120a", "cuda"):
        pytest.skip("the device has none")
    names = [launch["variant"] for launch in launches_of(make(*MANY[0], "coded"))]
    if "order scales" not in names[0]:
        pytest.skip("this build has none for the device")
    return names


def test_blocks_come_to_another_group(cutlass: list[str]) -> None:
    check_one(product, next_groups())


@pytest.mark.parametrize("shape", MANY, ids=str)
def test_many_rows_are_repeatable_under_strides(
    cutlass: list[str], threads: None, shape: tuple[int, ...]
) -> None:
    case = make(*shape, "coded", scales="matrix")
    check_repeatable(product, case)
    wanted = run(product, case)[0]
    for change in (lambda t: kit.strided(t, 16), lambda t: far_apart(t, multiple=16)):
        for name in ("a", "b"):
            t = case[name]
            moved = NVFP4Tensor(change(t.codes), change(t.block_scales), t.global_scale)
            kit.assert_same_bits(product(**case | {name: moved}), wanted)


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_negative_block_scale(target: str, name: str) -> None:
    """One in many: tensor cores take no sign of it."""
    case = make(*MANY[0], "coded", activation=None, out=F32)
    at = (250, 5) if name == "a" else (1, 135, 7)
    negative, positive = without_a_sign(case[name], *at)
    check_one(product, case | {name: negative})
    exact = expected(**case | {name: positive, "out_dtype": F64})
    kit.assert_accurate(product(**case | {name: negative}), exact, exact.float())


@pytest.mark.parametrize("scale", [0x7F, 0xFF])
def test_a_nan_block_scale_of_many_rows(target: str, scale: int) -> None:
    case = make(*MANY[0], "coded")
    case["a"].block_scales.view(torch.uint8)[3, 2] = scale
    case["b"].block_scales.view(torch.uint8)[1, 7, 11] = scale
    check_one(product, case)


def test_all_rows_are_of_no_group(cutlass: list[str]) -> None:
    case = make(*MANY[0], "coded")
    out = product(**case | {"offsets": torch.zeros(2, dtype=torch.int32)})
    kit.assert_same_bits(out, torch.zeros_like(out))


def test_launches_of_many_rows(cutlass: list[str]) -> None:
    """The product, and what is left to another kernel if a block scale is negative."""
    order, describe, tiles, *others = cutlass
    arch = order.partition(",")[0]
    assert [order, describe] == [f"{arch}, order scales", f"{arch}, describe groups"]
    assert tiles.startswith(f"{arch}, nvfp4 x nvfp4, 128 x ")
    assert others in (["nvfp4 x nvfp4, 64 rows"], ["nvfp4, decode rows", "nvfp4, 64 rows"])
    last = launches_of(make(*MANY[0], "coded", out=F32))[2:]
    assert last[0]["variant"] == f"{tiles}, to float32"
    assert last[1]["because"] == "block scales may be negative"


@pytest.mark.parametrize(
    ("shape", "because"),
    [
        ((120, 136, 192, 2), "a group has few rows"),
        ((520, 120, 192, 2), "a group has less than 128 columns or 128 of k"),
        ((520, 136, 64, 2), "a group has less than 128 columns or 128 of k"),
        ((520, 140, 192, 2), "results are not on 16 bytes"),
    ],
)
def test_what_else_takes_many_rows(
    cutlass: list[str], shape: tuple[int, ...], because: str
) -> None:
    first, *_ = launches_of(make(*shape, "coded"))
    assert "order scales" not in first["variant"]
    assert first["because"] == because
    case = make(*MANY[0], "coded")
    b = case["b"]
    strided = NVFP4Tensor(b.codes, kit.strided(b.block_scales, 3), b.global_scale)
    first, *_ = launches_of(case | {"b": strided})
    assert first["because"] == "rows of block scales are not on 4 bytes"


@pytest.mark.parametrize("dtype", [BF16, F32], ids=str)
@pytest.mark.parametrize(
    ("up", "down"), [("nvfp4", "nvfp4"), ("e4m3", "nvfp4"), ("nvfp4", "dense")]
)
@pytest.mark.parametrize("T", [3, 60, 400])
def test_experts(target: str, T: int, up: str, down: str, dtype: torch.dtype) -> None:
    """Few, some and many tokens an expert; a scale for all, for a matrix and for a row."""
    g = kit.generator(f"{T}{up}{down}")
    E, K, I, top_k = 4, 64, 48, 2  # noqa: E741
    quantise: Any = {"nvfp4": nvfp4, "e4m3": fp8}
    dense = kit.normal((E, K, I), g, dtype, I**-0.5)
    scales = {3: "tensor", 60: "matrix", 400: "row"}[T]
    weights, indices = kit.skewed_routing(T, E, top_k, g, drop=True)
    case = {
        "x": kit.normal((T, K), g, dtype),
        "up": quantise[up](E, I, K, g=g, scales=scales),
        "down": dense if down == "dense" else quantise[down](E, K, I, g=g, scales=scales),
        "weights": weights,
        "indices": indices,
    }
    exact = case | {n: case[n].double() for n in ("x", "weights")}
    exact |= {"down": dense.double()} if down == "dense" else {}
    out, wanted, plain = ops.moe_mlp(**case), ref.moe_mlp(**exact), ref.moe_mlp(**case)
    kit.assert_accurate(out, wanted.double(), plain)

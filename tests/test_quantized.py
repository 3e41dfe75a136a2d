# SPDX-License-Identifier: Apache-2.0
"""The Python vocabulary of NVFP4 and FP8, against ml_dtypes and the formulas of the formats."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import Tensor

from warpweave import testing as kit
from warpweave.quantized import FP8Tensor, NVFP4Tensor

E4M3 = torch.float8_e4m3fn


def nvfp4(*shape: int, scale: tuple[int, ...] = (), name: str = "") -> NVFP4Tensor:
    g = kit.generator(f"{shape}{scale}{name}")
    *rows, K = shape
    block_scales = torch.randint(0x7F, (*rows, K // 16), generator=g, dtype=torch.uint8)
    return NVFP4Tensor(
        torch.randint(256, (*rows, K // 2), generator=g, dtype=torch.uint8),
        block_scales.view(E4M3),
        torch.rand(scale, generator=g) + 0.1,
    )


def fp8(*shape: int, scale: tuple[int, ...] = ()) -> FP8Tensor:
    g = kit.generator(f"{shape}{scale}")
    data = torch.randint(0x7F, shape, generator=g, dtype=torch.uint8)
    return FP8Tensor(data.view(E4M3), torch.rand(scale, generator=g) + 0.1)


def e4m3_values(t: Tensor) -> np.ndarray:
    return t.view(torch.uint8).numpy().view(ml_dtypes.float8_e4m3fn).astype(np.float32)


def by_row(scale: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    return scale.numpy().reshape(*scale.shape, *[1] * (len(shape) - scale.dim()))


SCALES = ((), (3,), (3, 5))


def decoded(q: NVFP4Tensor) -> np.ndarray:
    """A nibble at a time, as ml_dtypes reads them."""
    codes = q.codes.numpy()
    even, odd = (c.view(ml_dtypes.float4_e2m1fn) for c in (codes & 15, codes >> 4))
    values = np.empty(q.shape, np.float32)
    values[..., ::2], values[..., 1::2] = even.astype(np.float32), odd.astype(np.float32)
    return values * e4m3_values(q.block_scales).repeat(16, -1) * by_row(q.global_scale, q.shape)


@pytest.mark.parametrize("scale", SCALES, ids=str)
def test_dequantize(scale: tuple[int, ...]) -> None:
    q = nvfp4(3, 5, 64, scale=scale)
    assert q.shape == (3, 5, 64)
    kit.assert_same_bits(q.dequantize(), torch.from_numpy(decoded(q)))
    kit.assert_same_bits(q.dequantize(torch.bfloat16), torch.from_numpy(decoded(q)).bfloat16())
    w = fp8(3, 5, 7, scale=scale)
    expected = torch.from_numpy(e4m3_values(w.data) * by_row(w.scale, w.shape))
    kit.assert_same_bits(w.dequantize(), expected)
    kit.assert_same_bits(w.dequantize(torch.bfloat16), expected.bfloat16())


def test_dequantize_every_code_under_every_scale() -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(1, 256).expand(256, 256)
    scales = torch.arange(256, dtype=torch.uint8).view(256, 1).expand(256, 32)
    q = NVFP4Tensor(codes, scales.contiguous().view(E4M3), torch.tensor(1.0))
    actual, expected = q.dequantize(), torch.from_numpy(decoded(q))
    nan = torch.isnan(expected)
    assert torch.equal(torch.isnan(actual), nan)
    assert set(nan.any(1).nonzero().flatten().tolist()) == {0x7F, 0xFF}
    kit.assert_same_bits(actual[~nan], expected[~nan])
    kit.assert_same_bits(actual[~nan].bfloat16().float(), actual[~nan])  # exact, so products may


SHAPES = [(1, 16), (128, 64), (5, 48), (129, 80), (300, 1040), (2, 3, 130, 96)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_swizzle(shape: tuple[int, ...]) -> None:
    q = nvfp4(*shape)
    *batch, rows, columns = q.block_scales.shape
    padded = -(-columns // 4) * 4
    r, c = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    offset = ((r // 128) * (padded // 4) + c // 4) * 512 + r % 32 * 16 + r % 128 // 32 * 4 + c % 4
    expected = torch.zeros(*batch, -(-rows // 128) * 128 * padded, dtype=torch.uint8)
    expected[..., offset.flatten()] = q.block_scales.view(torch.uint8).flatten(-2)
    kit.assert_same_bits(q.swizzled_scales(), expected.view(E4M3))
    padding = torch.full_like(expected, 0x7F)
    padding[..., offset.flatten()] = expected[..., offset.flatten()]
    for layout in (padding, padding.view(*batch, -(-rows // 128) * 128, padded)):
        back = NVFP4Tensor.from_swizzled(q.codes, layout.view(E4M3), q.global_scale)
        kit.assert_same_bits(back.block_scales, q.block_scales)


@pytest.mark.parametrize("scale", SCALES, ids=str)
def test_one_of_several(scale: tuple[int, ...]) -> None:
    for q in (nvfp4(3, 5, 32, scale=scale), fp8(3, 5, 32, scale=scale)):
        for i in (0, 2, -1):
            kit.assert_same_bits(q[i].dequantize(), q.dequantize()[i])
        with pytest.raises(IndexError, match="this is one matrix"):
            q[0][0]


def test_to_a_device() -> None:
    for q in (nvfp4(4, 32, scale=(4,)), fp8(4, 32, scale=(4,))):
        assert q.device == torch.device("cpu")
        moved = q.to("meta")
        assert type(moved) is type(q)
        assert (moved.device, moved.shape) == (torch.device("meta"), q.shape)


def test_refusals() -> None:
    codes, scales, one = nvfp4(4, 32).codes, nvfp4(4, 32).block_scales, torch.tensor(1.0)
    swizzled = NVFP4Tensor.from_swizzled
    refused: list[tuple[Any, str]] = [
        (lambda: NVFP4Tensor(codes.int(), scales, one), "codes is torch.int32, supported: torch.u"),
        (lambda: NVFP4Tensor([1], scales, one), "codes is list"),
        (lambda: NVFP4Tensor(codes[0], scales, one), r"codes has shape \(16,\), expected \(\.\.\."),
        (lambda: NVFP4Tensor(codes[:, :12], scales, one), "codes has 12 bytes a row, not a multi"),
        (lambda: NVFP4Tensor(codes, scales.float(), one), "block_scales is torch.float32, supp"),
        (lambda: NVFP4Tensor(codes, scales[:3], one), r"block_scales has shape \(3, 2\), not"),
        (lambda: NVFP4Tensor(codes, scales[:, :1], one), r"block_scales has shape \(4, 1\), not"),
        (lambda: swizzled(codes, scales, one), r"shape \(4, 2\), not torch.float8_e4m3fn of"),
        (lambda: swizzled(codes, torch.zeros(512), one), "scales is torch.float32 of shape"),
        (lambda: NVFP4Tensor(codes, scales, one.double()), "global_scale is torch.float64, not"),
        (lambda: NVFP4Tensor(codes, scales, 1.0), "global_scale is float, not float32"),
        (lambda: NVFP4Tensor(codes, scales, torch.ones(3)), r"global_scale has shape \(3,\), supp"),
        (lambda: FP8Tensor(codes, one), "data is torch.uint8, supported: torch.float8_e4m3fn"),
        (lambda: FP8Tensor(scales[0], one), r"data has shape \(2,\), expected \(\.\.\., N, K\)"),
        (lambda: FP8Tensor(scales, one.half()), "scale is torch.float16, not float32"),
        (lambda: FP8Tensor(scales, torch.ones(4, 1)), r"scale has shape \(4, 1\), supported"),
    ]  # fmt: skip
    for make, message in refused:
        with pytest.raises(ValueError, match=message):
            make()


# --- Faults that these tests must catch ---


def test_planted_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    right = NVFP4Tensor.dequantize

    def swapped(q: NVFP4Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return right(
            NVFP4Tensor(q.codes >> 4 | q.codes << 4, q.block_scales, q.global_scale), dtype
        )

    def next_scale(q: NVFP4Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        rolled = q.block_scales.view(torch.uint8).roll(1, -1).view(E4M3)
        return right(NVFP4Tensor(q.codes, rolled, q.global_scale), dtype)

    def linear(q: NVFP4Tensor) -> Tensor:
        rows, columns = q.block_scales.shape[-2:]
        padding = (0, -columns % 4, 0, -rows % 128)
        padded = torch.nn.functional.pad(q.block_scales.view(torch.uint8), padding)
        return padded.flatten(-2).view(E4M3)

    def as_stored(codes: Tensor, scales: Tensor, global_scale: Tensor) -> NVFP4Tensor:
        rows, columns = codes.shape[-2], codes.shape[-1] // 8
        padded = scales.view(torch.uint8).view(*codes.shape[:-2], -1, -(-columns // 4) * 4)
        return NVFP4Tensor(codes, padded[..., :rows, :columns].view(E4M3), global_scale)

    for name, wrong, check in (
        ("dequantize", swapped, lambda: test_dequantize(())),
        ("dequantize", next_scale, lambda: test_dequantize((3,))),
        ("swizzled_scales", linear, lambda: test_swizzle((129, 80))),
        ("from_swizzled", as_stored, lambda: test_swizzle((129, 80))),
    ):
        check()
        with monkeypatch.context() as patch:
            patch.setattr(NVFP4Tensor, name, wrong)
            with pytest.raises(AssertionError):
                check()

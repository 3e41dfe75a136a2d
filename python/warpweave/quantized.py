# SPDX-License-Identifier: Apache-2.0
"""Matrices in the 4- and 8-bit formats of the released checkpoints, as the ops take them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["E2M1_VALUES", "FP8Tensor", "Matrix", "NVFP4Tensor"]

E2M1_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # of codes 0 to 7; bit 3 is the sign
BLOCK = 16  # elements of K that share a scale


@dataclass(frozen=True, eq=False)
class NVFP4Tensor:
    """Matrices (..., N, K) of value = code * block scale * global scale; 4.5 bits an element.

    codes: uint8 (..., N, K/2), two E2M1 codes a byte, the even k in the low nibble.
    block_scales: float8_e4m3fn (..., N, K/16), one for 16 elements along K, not swizzled.
    global_scale: float32 decode multiplier (amax / 2688 as released), with shape () for all, (...)
        for one a matrix, or (..., N) for one a row.

    ValueError names the part that does not fit. arXiv 2509.25149.
    """

    codes: Tensor
    block_scales: Tensor
    global_scale: Tensor

    def __post_init__(self) -> None:
        _check("codes", self.codes, torch.uint8)
        if self.codes.shape[-1] * 2 % BLOCK:
            raise ValueError(f"codes has {self.codes.shape[-1]} bytes a row, not a multiple of 8")
        _check("block_scales", self.block_scales, torch.float8_e4m3fn)
        expected = (*self.codes.shape[:-1], self.codes.shape[-1] * 2 // BLOCK)
        if self.block_scales.shape != expected:
            raise ValueError(
                f"block_scales has shape {tuple(self.block_scales.shape)}, not {expected}"
            )
        _check_scale("global_scale", self.global_scale, self.codes.shape)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((*self.codes.shape[:-1], self.codes.shape[-1] * 2))

    @property
    def device(self) -> torch.device:
        return self.codes.device

    def to(self, device: torch.device | str) -> NVFP4Tensor:
        return NVFP4Tensor(
            *(t.to(device) for t in (self.codes, self.block_scales, self.global_scale))
        )

    def __getitem__(self, expert: int) -> NVFP4Tensor:
        """One of several matrices; a view."""
        if self.codes.dim() < 3:
            raise IndexError("this is one matrix")
        scale = self.global_scale[expert] if self.global_scale.dim() else self.global_scale
        return NVFP4Tensor(self.codes[expert], self.block_scales[expert], scale)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """(..., N, K): code * block scale is exact, its product with the global scale fp32, then
        rounded to dtype."""
        low = self.codes.to(torch.int16)
        codes = torch.stack([low, low >> 4], -1).flatten(-2)
        # E2M1's three low bits in front of an fp16 mantissa are the value times 2^-14.
        bits = (codes & 7) << 9 | (codes & 8) << 12
        values = torch.unflatten(bits.view(torch.float16).float() * 2.0**14, -1, (-1, BLOCK))
        scaled = (values * self.block_scales.float()[..., None]).flatten(-2)
        return (scaled * _by_row(self.global_scale, self.shape)).to(dtype)

    def swizzled_scales(self) -> Tensor:
        """The block scales in the order of block-scaled tensor cores, float8_e4m3fn (..., bytes).

        N is padded to 128 and K/16 to 4 with zeros; tiles of 128 x 4 follow each other along K, and
        in a tile the scale (r, c) is byte r % 32 * 16 + r // 32 * 4 + c.
        """
        *batch, N, columns = self.block_scales.shape
        padded = self.block_scales.view(torch.uint8).new_zeros(
            *batch, -(-N // 128) * 128, -(-columns // 4) * 4
        )
        padded[..., :N, :columns] = self.block_scales.view(torch.uint8)
        tiles = padded.view(*batch, padded.shape[-2] // 128, 4, 32, padded.shape[-1] // 4, 4)
        order = tiles.movedim(-2, -4).transpose(-3, -2)  # (row tile, column tile, 32, 4, 4)
        return order.flatten(len(batch)).contiguous().view(torch.float8_e4m3fn)

    @classmethod
    def from_swizzled(cls, codes: Tensor, scales: Tensor, global_scale: Tensor) -> NVFP4Tensor:
        """The matrices whose swizzled_scales() are `scales`, or those in the shape (..., padded N,
        padded K/16). What pads them is not read."""
        *batch, N, half = codes.shape
        columns = half * 2 // BLOCK
        tiles = (-(-N // 128), -(-columns // 4))
        size = tiles[0] * tiles[1] * 512
        if scales.dtype != torch.float8_e4m3fn or scales.numel() != math.prod(batch) * size:
            raise ValueError(
                f"scales is {scales.dtype} of shape {tuple(scales.shape)}, not "
                f"{torch.float8_e4m3fn} of {(*batch, size)}"
            )
        order = scales.view(torch.uint8).reshape(*batch, *tiles, 32, 4, 4)
        rows = order.transpose(-3, -2).movedim(-4, -2)  # (row tile, 4, 32, column tile, 4)
        padded = rows.reshape(*batch, tiles[0] * 128, tiles[1] * 4)
        block_scales = padded[..., :N, :columns].contiguous().view(torch.float8_e4m3fn)
        return cls(codes, block_scales, global_scale)


@dataclass(frozen=True, eq=False)
class FP8Tensor:
    """Matrices (..., N, K) of value = data * scale; 8 bits an element.

    data: float8_e4m3fn (..., N, K).
    scale: float32 decode multiplier, with shape () for all, (...) for one a matrix, or (..., N) for
        one a row.
    """

    data: Tensor
    scale: Tensor

    def __post_init__(self) -> None:
        _check("data", self.data, torch.float8_e4m3fn)
        _check_scale("scale", self.scale, self.data.shape)

    @property
    def shape(self) -> torch.Size:
        return self.data.shape

    @property
    def device(self) -> torch.device:
        return self.data.device

    def to(self, device: torch.device | str) -> FP8Tensor:
        return FP8Tensor(self.data.to(device), self.scale.to(device))

    def __getitem__(self, expert: int) -> FP8Tensor:
        """One of several matrices; a view."""
        if self.data.dim() < 3:
            raise IndexError("this is one matrix")
        return FP8Tensor(self.data[expert], self.scale[expert] if self.scale.dim() else self.scale)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """(..., N, K): the product in fp32, then rounded to dtype."""
        return (self.data.float() * _by_row(self.scale, self.shape)).to(dtype)


Matrix = Tensor | NVFP4Tensor | FP8Tensor  # dense or quantised


def _check(name: str, t: Any, dtype: torch.dtype) -> None:
    if not isinstance(t, Tensor) or t.dtype != dtype:
        raise ValueError(f"{name} is {getattr(t, 'dtype', type(t).__name__)}, supported: {dtype}")
    if t.dim() < 2:
        raise ValueError(f"{name} has shape {tuple(t.shape)}, expected (..., N, K)")


def _check_scale(name: str, scale: Tensor, shape: torch.Size) -> None:
    if not isinstance(scale, Tensor) or scale.dtype != torch.float32:
        raise ValueError(f"{name} is {getattr(scale, 'dtype', type(scale).__name__)}, not float32")
    allowed = ((), tuple(shape[:-2]), tuple(shape[:-1]))
    if tuple(scale.shape) not in allowed:
        raise ValueError(
            f"{name} has shape {tuple(scale.shape)}, supported: {sorted(set(allowed))}"
        )


def _by_row(scale: Tensor, shape: torch.Size) -> Tensor:
    """So that it broadcasts to (..., N, K)."""
    return scale.reshape(*scale.shape, *[1] * (len(shape) - scale.dim()))

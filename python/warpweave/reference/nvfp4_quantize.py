# SPDX-License-Identifier: Apache-2.0
"""NVFP4 from its definition: E2M1 codes under an E4M3 scale for 16 elements and an fp32 one."""

from math import inf

import torch
from torch import Tensor

from warpweave.quantized import BLOCK, E2M1_VALUES, NVFP4Tensor

from ._random import draw_seed, words_of

SIGNS = (1, 1, 1, -1, 1, -1, -1, -1, -1, -1, -1, 1, -1, 1, -1, -1)  # of the random Hadamard


def nvfp4_quantize(
    x: Tensor, *, global_scale: Tensor | str | None = None, block: str = "1d",
    rounding: str = "nearest", hadamard: bool = False, four_over_six: bool = False,
    generator: torch.Generator | None = None,
) -> NVFP4Tensor:  # fmt: skip
    """s = e4m3((amax of the block / 6) / global), code = e2m1(x / (s * global)).

    x (..., N, K) fp32, bf16 or fp16, finite. global_scale None is amax of x / 2688, "row" that of
    each row, or a Tensor () or (...) or (..., N). block "2d" shares a scale between 16 rows, too.
    All of it in fp32, each quotient and product rounded once, to nearest; see ops.nvfp4_quantize
    for the rest. Raises ValueError naming the argument.
    """
    _check(x, global_scale, block, rounding)
    tiles = block == "2d"
    v = x.detach().float().reshape(*x.shape[:-1], x.shape[-1] // BLOCK, BLOCK)
    if hadamard:
        v = _rotate(v)
    if not v.isfinite().all():
        at = tuple((~v.isfinite()).nonzero()[0].tolist())
        index = (*at[:-2], at[-2] * BLOCK + at[-1])
        raise ValueError(f"x is {v[at].item()} at {index}, supported are finite values")
    top = 6.0 * (256.0 if four_over_six else 448.0)
    if global_scale is None:
        scale = _nonzero(_amax(v, tuple(range(v.dim()))) / top)
    elif isinstance(global_scale, str):
        scale = _nonzero(_amax(v, (-2, -1)) / top)
    else:
        scale = global_scale.detach()
    wide = scale.reshape(*scale.shape, *[1] * (x.dim() - scale.dim()))  # to (..., N, K/16)

    amax = _amax(v, (-1,))
    if tiles:
        amax = _over_rows(_by_tile(amax).amax(-2))
    block_scales = _block_scale(amax, 6.0, wide)
    if four_over_six:
        to_four = _block_scale(amax, 4.0, wide)
        better = _error(v, to_four, wide, tiles) < _error(v, block_scales, wide, tiles)
        block_scales = torch.where(better, to_four, block_scales)
    q = _quotient(v, block_scales, wide)
    if rounding == "nearest":
        codes = _nearest(q.abs())
    else:
        codes = _stochastic(q.abs(), _words(draw_seed(generator), x.numel()).view_as(v))
    negative = (v < 0) & q.signbit()  # q may be -0
    codes = torch.where(negative, codes + 8, codes).flatten(-2).to(torch.uint8)
    packed = codes[..., ::2] | codes[..., 1::2] << 4
    return NVFP4Tensor(packed, block_scales.to(torch.float8_e4m3fn), scale)


def _check(x: Tensor, global_scale: Tensor | str | None, block: str, rounding: str) -> None:
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"x is {x.dtype}, supported is float32, bfloat16 or float16")
    if x.dim() < 2 or x.shape[-1] % BLOCK:
        raise ValueError(f"x has shape {tuple(x.shape)}, supported is (..., N, K) with K % 16 == 0")
    if block not in ("1d", "2d"):
        raise ValueError(f"block is {block!r}, supported is '1d' or '2d'")
    if rounding not in ("nearest", "stochastic"):
        raise ValueError(f"rounding is {rounding!r}, supported is 'nearest' or 'stochastic'")
    by_row = global_scale == "row" if isinstance(global_scale, str) else False
    if isinstance(global_scale, Tensor):
        shapes = ((), tuple(x.shape[:-2]), tuple(x.shape[:-1]))
        if global_scale.dtype != torch.float32 or tuple(global_scale.shape) not in shapes:
            raise ValueError(
                f"global_scale is {global_scale.dtype} of shape {tuple(global_scale.shape)}, "
                f"supported is float32 of one of {shapes}"
            )
        if not ((global_scale > 0) & (global_scale < inf)).all():
            raise ValueError("global_scale is not positive and finite")
        by_row = global_scale.dim() == x.dim() - 1
    elif global_scale is not None and not by_row:
        raise ValueError(f"global_scale is {global_scale!r}, supported is None, 'row' or a Tensor")
    if block == "2d" and (by_row or x.shape[-2] % BLOCK):
        raise ValueError(
            f"block '2d' with x of shape {tuple(x.shape)}: supported is N % 16 == 0 and no scale "
            "for each row"
        )


def _rotate(v: Tensor) -> Tensor:
    """v diag(SIGNS) H / 4, H the Sylvester matrix of order 16: h = 1, 2, 4, 8."""
    v = v * torch.tensor(SIGNS, dtype=v.dtype, device=v.device)
    for h in (1, 2, 4, 8):
        a, b = v.reshape(*v.shape[:-1], BLOCK // (2 * h), 2, h).unbind(-2)
        v = torch.stack([a + b, a - b], -2).flatten(-3)
    return v * 0.25


def _amax(v: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The largest magnitude, 0 of nothing."""
    sizes = [v.shape[d] for d in dims]
    if 0 in sizes:
        return v.abs().sum(dims)
    return v.abs().amax(dims)


def _nonzero(scale: Tensor) -> Tensor:
    return torch.where(scale > 0, scale, 1.0)


def _by_tile(v: Tensor) -> Tensor:
    return v.reshape(*v.shape[:-2], v.shape[-2] // BLOCK, BLOCK, v.shape[-1])


def _over_rows(v: Tensor) -> Tensor:
    return v.repeat_interleave(BLOCK, -2)


def _block_scale(amax: Tensor, to: float, scale: Tensor) -> Tensor:
    return _e4m3(amax / to / scale)


def _e4m3(v: Tensor) -> Tensor:
    """Rounded to E4M3, saturating, as fp32."""
    return v.clamp(max=448.0).to(torch.float8_e4m3fn).float()


def _quotient(v: Tensor, block_scales: Tensor, scale: Tensor) -> Tensor:
    """v / (s * global), 0 where that divisor is 0."""
    divisor = (block_scales * scale)[..., None]
    return torch.where(divisor > 0, v / divisor, 0.0)


def _nearest(q: Tensor) -> Tensor:
    """E2M1 codes of magnitudes: each bound goes to the even code."""
    below = ((0.25, 0.75), (1.25, 1.75), (2.5, 3.5))  # > the first, >= the second
    codes = (q > 5.0).int()
    for tie_down, tie_up in below:
        codes += (q > tie_down).int() + (q >= tie_up).int()
    return codes


def _stochastic(q: Tensor, words: Tensor) -> Tensor:
    """Up from the value below with the probability of the way gone: 24 bits of the words."""
    values = torch.tensor(E2M1_VALUES, device=q.device)
    low = (q[..., None] >= values[1:]).sum(-1).clamp(max=6)
    fraction = (q - values[low]) / (values[low + 1] - values[low])
    return low + ((words >> 8).float() * 2.0**-24 < fraction).int()


def _error(v: Tensor, block_scales: Tensor, scale: Tensor, tiles: bool) -> Tensor:
    """The sum of squared errors of rounding to nearest, in units of the squared global scale:
    of a row's 16 elements in order, of a tile's 16 rows in order. A divisor of 0 loses to all."""
    q = _quotient(v, block_scales, scale).abs()
    error = q - torch.tensor(E2M1_VALUES, device=v.device)[_nearest(q)]
    total = _in_order(error * error, -1)
    if tiles:
        total = _over_rows(_in_order(_by_tile(total), -2))
    return torch.where(block_scales * scale > 0, total * (block_scales * block_scales), inf)


def _in_order(v: Tensor, dim: int) -> Tensor:
    total, *rest = v.unbind(dim)
    for term in rest:
        total = total + term
    return total


def _words(seed: int, n: int) -> Tensor:
    """Word i of n: word i % 4 of Philox at the counter i / 4."""
    return words_of(torch.arange((n + 3) // 4), seed).flatten()[:n]

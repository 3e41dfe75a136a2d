# SPDX-License-Identifier: Apache-2.0
"""Random quantised matrices, and the faults that every product with them can have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from warpweave import testing as kit
from warpweave.quantized import FP8Tensor, NVFP4Tensor

E4M3, F32, BF16 = torch.float8_e4m3fn, torch.float32, torch.bfloat16


def e4m3(shape: tuple[int, ...], g: torch.Generator, low: int = 0, high: int = 127) -> Tensor:
    """Codes of magnitude [low, high), of both signs."""
    codes = torch.randint(low, high, shape, generator=g, dtype=torch.uint8)
    return (codes | 128 * torch.randint(0, 2, shape, generator=g, dtype=torch.uint8)).view(E4M3)


def _scale(shape: tuple[int, ...], per: str, g: torch.Generator) -> Tensor:
    of = {"all": (), "matrix": shape[:-2], "row": shape[:-1]}[per]
    return 0.5 + torch.rand(of, generator=g)


def nvfp4(shape: tuple[int, ...], g: torch.Generator, per: str = "matrix") -> NVFP4Tensor:
    """Every code, and block scales of both signs from the subnormal ones to 2^5; a few are zero."""
    *rows, K = shape
    codes = torch.randint(0, 256, (*rows, K // 2), generator=g, dtype=torch.uint8)
    scales = e4m3((*rows, K // 16), g, 0, 96)
    return NVFP4Tensor(codes, scales, _scale(shape, per, g))


def fp8(shape: tuple[int, ...], g: torch.Generator, per: str = "matrix") -> FP8Tensor:
    """Every finite code."""
    return FP8Tensor(e4m3(shape, g), _scale(shape, per, g))


def each_part(t: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`t`, a Tensor or made of them, with every tensor changed."""
    if isinstance(t, Tensor):
        return change(t)
    return type(t)(*(change(part) for part in vars(t).values()))


def with_nan(t: NVFP4Tensor | FP8Tensor, *at: int) -> Any:
    """A copy with a NaN block scale, or value."""
    name = "block_scales" if isinstance(t, NVFP4Tensor) else "data"
    part = getattr(t, name).clone()
    part.view(torch.uint8)[at] = 0xFF
    return replace(t, **{name: part})


def on_bytes(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda t: change(t.view(torch.uint8)).view(t.dtype)


def magnitude(t: Any) -> Any:
    """|t|, whatever its format."""
    if isinstance(t, NVFP4Tensor):
        scales = on_bytes(lambda s: s & 0x7F)(t.block_scales)
        return replace(t, codes=t.codes & 0x77, block_scales=scales)
    if isinstance(t, FP8Tensor):
        return replace(t, data=magnitude(t.data))
    return on_bytes(lambda b: b & 0x7F)(t) if t.dtype == E4M3 else t.abs()


def terms_of(reference: kit.Op) -> kit.Op:
    """What the terms of each element of a product add up to without their signs, which rounding
    errors of its fp32 sum scale with."""
    return lambda a, b, **options: reference(a=magnitude(a), b=magnitude(b), **options)


def opcheck(op: Any, args: Any) -> None:
    """torch's checks of an op, less that of the schema, which cannot compare float8 tensors."""
    checks = ("test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(op, tuple(args), test_utils=checks)


def on_part(name: str, part: str, change: Callable[[Tensor], Tensor]) -> kit.Fault:
    """The fault that computes with another `part` of the argument `name`, if it is quantised."""
    return kit.on_argument(
        name, lambda t: replace(t, **{part: change(getattr(t, part))}) if hasattr(t, part) else t
    )


def truncate_out(op: kit.Op) -> kit.Op:
    """The fault that cuts the fp32 accumulator to bf16 instead of rounding it."""

    def wrong(*args: Any, out_dtype: torch.dtype = BF16, **options: Any) -> Tensor:
        out: Tensor = op(*args, out_dtype=F32, **options)
        cut = (out.view(torch.int32) & -65536).view(F32)
        return cut.to(BF16) if out_dtype == BF16 else out

    return wrong


RESULT_FAULTS: dict[str, kit.Fault] = {
    "truncated": truncate_out,
    "one wrong element": kit.wrong_element,
    "last column dropped": kit.drop_tail,
    "NaN swallowed": kit.swallow_nan,
}


def nvfp4_faults(name: str) -> dict[str, kit.Fault]:
    return {
        f"{name}: nibbles swapped": on_part(name, "codes", lambda c: (c << 4) | (c >> 4)),
        f"{name}: signs lost": on_part(name, "codes", lambda c: c & 0x77),
        f"{name}: 6 read as 5": on_part(name, "codes", lambda c: torch.where(c & 7 == 7, c - 1, c)),
        f"{name}: scale of the next block": on_part(name, "block_scales", on_bytes(
            lambda s: s.roll(1, -1))),
        f"{name}: scale of the next row": on_part(name, "block_scales", on_bytes(
            lambda s: s.roll(1, -2))),
        f"{name}: sign of a scale lost": on_part(name, "block_scales", on_bytes(
            lambda s: s & 0x7F)),
        f"{name}: subnormal scales flushed": on_part(name, "block_scales", on_bytes(
            lambda s: torch.where(s & 0x7F < 8, 0, s))),
        f"{name}: global scale twice": on_part(name, "global_scale", torch.square),
        f"{name}: global scale of the first": on_part(
            name, "global_scale", lambda s: s.flatten()[:1].expand(s.shape) if s.dim() else s),
    }  # fmt: skip

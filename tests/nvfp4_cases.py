# SPDX-License-Identifier: Apache-2.0
"""What nvfp4_quantize is tested with: every tie, every bound between codes, extremes, all modes."""

import importlib
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from native import Case
from warpweave import testing as kit
from warpweave.quantized import E2M1_VALUES

BF16, F32 = torch.bfloat16, torch.float32
REFERENCE = importlib.import_module("warpweave.reference.nvfp4_quantize")
SIGNS = torch.tensor(REFERENCE.SIGNS)
MODES: list[Case] = [
    {"block": block, "rounding": rounding, "hadamard": hadamard, "four_over_six": four_over_six}
    for block, rounding, hadamard, four_over_six in itertools.product(
        ("1d", "2d"), ("nearest", "stochastic"), (False, True), (False, True)
    )
]


def seeded(case: Case, seed: int = 7) -> Case:
    """A generator for each call, since drawing from it changes it."""
    return case | {"generator": torch.Generator().manual_seed(seed)}


def random(shape: tuple[int, ...], dtype: torch.dtype, name: str = "") -> Tensor:
    """Blocks of sizes that differ by powers of two, with outliers, some all zero or all alike."""
    g = kit.generator(f"{name}{shape}")
    x = kit.with_outliers(kit.normal(shape, g), g, factor=20.0)
    blocks = x.unflatten(-1, (-1, 16))
    size = torch.randn(blocks.shape[:-1], generator=g).mul(3).round().exp2()
    kind = torch.randint(20, size.shape, generator=g)
    blocks = blocks * torch.where(kind == 0, 0.0, size)[..., None]
    blocks = torch.where((kind == 1)[..., None], size[..., None], blocks)
    x = torch.where(torch.rand(x.shape, generator=g) < 0.05, -0.0, blocks.flatten(-2))
    return x.to(dtype)


def around(v: Tensor, steps: int) -> Tensor:
    """fp32 values, positive, and their neighbours so many steps away."""
    step = torch.arange(-steps, steps + 1, dtype=torch.int32)
    return (v.view(torch.int32)[..., None] + step).view(F32).flatten()


def in_blocks(v: Tensor, first: float) -> Tensor:
    """Rows of blocks that start with `first` and go on with the values, both signs."""
    v = torch.cat([v, -v])
    v = torch.cat([v, v.new_zeros(-len(v) % 15)]).view(-1, 15)
    x = torch.cat([v.new_full((len(v), 1), first), v], 1).flatten()
    return torch.cat([x, x.new_zeros(-len(x) % 1024)]).view(-1, 1024).repeat(16, 1)


def ties(dtype: torch.dtype) -> Iterator[Case]:
    """All codes and all ties between them, and what lies next to them, under exact and inexact
    divisors. With a global scale of 1 a first element of 6 makes the divisor 1."""
    values = torch.tensor(E2M1_VALUES)
    points = torch.cat([values[1:], (values[1:] + values[:-1]) / 2, torch.tensor([0.1, 5.9])])
    for scale, size in ((1.0, 1.0), (0.37, 1.125), (7.1e-3, 13.0), (1e-38, 2.0), (3e35, 0.75)):
        divisor = torch.tensor(scale) * size
        x = in_blocks(around(points * divisor, 6), float(divisor) * 6)
        if x.to(dtype).isfinite().all():
            yield {"x": x.to(dtype), "global_scale": torch.tensor(scale)}


def scale_ties() -> Iterator[Case]:
    """The same for block scales: every E4M3 value and every tie, as the quotient of the amax."""
    codes = torch.arange(1, 0x7F, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    points = torch.cat([codes, (codes[1:] + codes[:-1]) / 2, codes[:1] / 2, torch.tensor([460.0])])
    for scale in (1.0, 0.37, 2.9e-5):
        amax = around(points * 6 * scale, 4)
        x = torch.zeros(len(amax), 16)
        x[:, 3], x[:, 5], x[:, 9] = -amax, amax * 0.7, amax * 0.11
        yield {"x": x, "global_scale": torch.tensor(scale)}
        yield {"x": x, "global_scale": torch.tensor(scale), "four_over_six": True}


def bounds() -> Iterator[Case]:
    """All bounds between codes and what lies next to them, under many divisors of 24 bits and the
    ones whose quotients come nearest to a bound's own rounding: of ones and next to powers of 2."""
    g = kit.generator("bounds")
    divisors = torch.cat(
        [torch.rand(56, generator=g) + 1, around(torch.tensor([1.0, 1.5, 1.9999998]), 1)]
    )[:64]
    points = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    x = torch.cat([in_blocks(around(points * d, 2), float(d) * 6)[:1, :80] for d in divisors])
    for rounding in ("nearest", "stochastic"):
        yield {"x": x, "global_scale": divisors, "rounding": rounding}


def chances() -> Iterator[Case]:
    """The way gone to the next value is that of the random bits, or next to it."""
    seed = REFERENCE.draw_seed(seeded({})["generator"])
    bits = (REFERENCE._words(seed, 16 * 256) >> 8).double().view(-1, 16)
    values = torch.tensor(E2M1_VALUES).double()
    low = torch.randint(7, bits.shape, generator=kit.generator("chances"))
    x = (values[low] + bits * 2**-24 * (values[low + 1] - values[low])).float()
    for step in (-1, 0, 1):
        moved = (x.view(torch.int32) + step).view(F32)
        moved[:, 0] = 6
        yield {"x": moved.view(16, 256), "global_scale": torch.tensor(1.0),
               "rounding": "stochastic"}  # fmt: skip


def ranges(dtype: torch.dtype) -> Iterator[Case]:
    """Quotients that underflow, overflow or saturate on the way, of elements of all sizes."""
    blocks = random((16, 64), F32, "ranges").unflatten(-1, (-1, 16))
    tiny = torch.tensor([1e-45, 3e-44, 1e-40, 1e-38, 1e-34, 1e-31, 1e-25, 1e-15])
    for size, scale in itertools.product((1e-30, 1e-9, 1.0, 1e8, 3e37), (1e-23, 1e-12, 1.0, 9e5)):
        x = blocks / blocks.abs().amax() * size
        x[..., 1:9] = torch.where(tiny < size, tiny, 0.0) * x[..., 1:9].sign()
        x = x.flatten(-2).to(dtype)
        if x.isfinite().all():
            for rounding, four_over_six in itertools.product(("nearest", "stochastic"), (0, 1)):
                yield {"x": x, "global_scale": torch.tensor(scale), "rounding": rounding,
                       "four_over_six": bool(four_over_six)}  # fmt: skip


def extremes(dtype: torch.dtype) -> Iterator[Case]:
    """Subnormal and huge blocks, scales that round to zero or saturate, nothing at all."""
    info = torch.finfo(dtype)
    x = random((32, 320), dtype, "extremes").float()
    sizes = (info.smallest_normal * info.eps, info.smallest_normal, info.max)
    for size in sizes:
        y = (x / x.abs().amax() * size).to(dtype)
        yield {"x": y}
        yield {"x": y, "global_scale": "row"}
        yield {"x": y, "four_over_six": True}
        mixed = torch.where(torch.arange(320) % 48 < 16, y, x.to(dtype))
        yield {"x": mixed} if size < 1 else {"x": mixed, "block": "2d"}
        for scale in (1e-45, 1e-38, 1.0, 1e38):
            yield {"x": y, "global_scale": torch.tensor(scale)}
    yield {"x": torch.zeros(16, 32, dtype=dtype), "block": "2d"}
    for shape in ((0, 32), (4, 0), (2, 0, 16)):
        yield {"x": torch.zeros(shape, dtype=dtype)}
        yield {"x": torch.zeros(shape, dtype=dtype), "global_scale": "row"}


def scales(dtype: torch.dtype) -> Iterator[Case]:
    """Every shape of the global scale."""
    x = random((2, 3, 32, 48), dtype)
    g = kit.generator("scales")
    for shape in ((), (2, 3), (2, 3, 32)):
        scale = torch.rand(shape, generator=g) + 0.01
        yield {"x": x, "global_scale": scale}
        if len(shape) < 3:
            yield {"x": x, "global_scale": scale, "block": "2d", "four_over_six": True}
    yield {"x": x, "global_scale": "row"}
    yield {"x": x[0, 0], "global_scale": "row", "hadamard": True, "rounding": "stochastic"}


def cases(dtype: torch.dtype) -> Iterator[Case]:
    for mode in MODES:
        yield {"x": random((32, 336), dtype)} | mode  # 21 blocks: a tail for every vector
    yield {"x": random((41, 1024), dtype)}  # more than one slice of an amax on CUDA
    yield from ties(dtype)
    yield from ranges(dtype)
    yield from extremes(dtype)
    yield from scales(dtype)
    if dtype == F32:
        yield from scale_ties()
        yield from bounds()
        yield from chances()

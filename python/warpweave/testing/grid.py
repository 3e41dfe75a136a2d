# SPDX-License-Identifier: Apache-2.0
"""Inputs that break kernels: awkward lengths, strides, decays, routings and segmentations."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def seed_of(test_id: str) -> int:
    """A seed from a test's own name, so that order and selection of tests change no data."""
    return int.from_bytes(hashlib.sha256(test_id.encode()).digest()[:4], "little")


def generator(test_id: str) -> torch.Generator:
    """A CPU generator seeded with `seed_of(test_id)`."""
    return torch.Generator().manual_seed(seed_of(test_id))


def lengths(*tiles: int, longest: int = 1 << 20) -> list[int]:
    """0, 1, an odd length, and one below, at and above each tile size and twice that."""
    around = {k * tile + i for tile in tiles for k in (1, 2) for i in (-1, 0, 1)}
    return sorted(n for n in {0, 1, 7} | around if 0 <= n <= longest)


def strided(t: Tensor, pad: int = 3) -> Tensor:
    """The values of `t` in a tensor of NaN (integers: the maximum), padded in every dimension."""
    outer = [n + 2 * pad for n in t.shape]
    fill = float("nan") if t.is_floating_point() else torch.iinfo(t.dtype).max
    view = torch.full(outer, fill, dtype=t.dtype, device=t.device)
    for dim, n in enumerate(t.shape):
        view = view.narrow(dim, pad, n)
    return view.copy_(t)


def permuted(t: Tensor, *order: int) -> Tensor:
    """The values of `t`, stored as a contiguous tensor of its dimensions in another `order`."""
    back = [order.index(dim) for dim in range(t.dim())]
    return t.permute(order).contiguous().permute(back)


def normal(
    shape: Iterable[int], g: torch.Generator, dtype: torch.dtype = torch.float32, scale: float = 1.0
) -> Tensor:
    """Gaussian values, drawn in float64 and rounded once, so dtypes see the same numbers."""
    return (torch.randn(tuple(shape), generator=g, dtype=torch.float64) * scale).to(dtype)


def with_outliers(t: Tensor, g: torch.Generator, factor: float = 100.0, every: int = 64) -> Tensor:
    """A copy of `t` with one element in `every` multiplied by `factor`, at random places."""
    hit = torch.rand(t.shape, generator=g) < 1.0 / every
    return torch.where(hit, t * factor, t)


def time_steps(
    shape: Iterable[int], g: torch.Generator, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Raw time steps (before softplus) in four kinds: vanishing, small, ordinary, and above 20,
    where softplus turns linear."""
    shape = tuple(shape)
    centre = torch.tensor([-18.0, -5.0, 0.0, 21.0], dtype=torch.float64)
    kind = torch.tensor([0] * 3 + [1] * 8 + [2] * 8 + [3])  # odds of the four
    kind = kind[torch.randint(len(kind), shape, generator=g)]
    return (centre[kind] + normal(shape, g, torch.float64)).to(dtype)


def decays(H: int) -> Tensor:
    """A (H,) fp32, negative, spread by powers of ten: exp(dt*A) from almost 1 to exactly 0."""
    return -torch.logspace(-4, 3, max(H, 1), dtype=torch.float64)[:H].float()


def cut_points(T: int, n: int, g: torch.Generator, dtype: torch.dtype = torch.int32) -> Tensor:
    """cu_seqlens (n+1,) of n sequences in T tokens; with n >= 3 one of them is empty."""
    inner = torch.randint(0, T + 1, (max(n - 1, 0),), generator=g).sort().values
    if n >= 3:
        inner[1] = inner[0]
    return torch.cat([torch.tensor([0]), inner, torch.tensor([T])]).to(dtype)


def seq_idx_of(cu_seqlens: Tensor) -> Tensor:
    """seq_idx (1,T) int32 of the same segmentation (empty sequences leave no token)."""
    counts = cu_seqlens.diff().long()
    return torch.arange(len(counts)).repeat_interleave(counts)[None].to(torch.int32)


def skewed_routing(
    T: int, E: int, k: int, g: torch.Generator, *, drop: bool = False
) -> tuple[Tensor, Tensor]:
    """Weights (T,k) fp32 and indices (T,k) int32 where expert 0 gets every token and the upper half
    of the experts none (as far as k allows); with `drop` a tenth of the pairs is -1, no expert."""
    open_experts = max(k, E // 2)
    others = torch.rand(T, open_experts - 1, generator=g).argsort(-1)[:, : k - 1] + 1
    indices = torch.cat([torch.zeros(T, 1, dtype=torch.int64), others], 1)
    if drop:
        indices = torch.where(torch.rand(T, k, generator=g) < 0.1, -1, indices)
    weights = torch.rand(T, k, generator=g) + 0.01
    return weights / weights.sum(-1, keepdim=True), indices.to(torch.int32)


def group_ends(M: int, E: int, g: torch.Generator, dtype: torch.dtype = torch.int32) -> Tensor:
    """End offsets (E,) for `grouped_gemm`: some groups empty, one large, the last row left over."""
    share = torch.rand(E, generator=g) ** 4 * (torch.rand(E, generator=g) > 0.3)
    share[E // 2] = 1.0
    rows = max(M - 1, 0)
    ends = (share.cumsum(0) / share.sum() * rows).floor().long().clamp(max=rows)
    return ends.to(dtype)

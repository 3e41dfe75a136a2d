# SPDX-License-Identifier: Apache-2.0
"""Argument checks shared by the reference ops."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor


def acc_dtype(*tensors: Tensor | None) -> torch.dtype:
    """float64 as soon as one argument is float64, else float32."""
    wide = any(t is not None and t.dtype == torch.float64 for t in tensors)
    return torch.float64 if wide else torch.float32


def check_shape(name: str, t: Any, shape: tuple[int, ...], letters: str) -> None:
    """Raise ValueError unless `t` is None or has exactly `shape`, spelt `letters` in docs."""
    if t is not None and tuple(t.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(t.shape)}, supported is {letters} = {shape}")


def check_dim(name: str, t: Any, dims: tuple[int, ...], letters: str) -> None:
    """Raise ValueError unless the number of dimensions of `t` is one of `dims`."""
    if len(t.shape) not in dims:
        raise ValueError(f"{name} has shape {tuple(t.shape)}, supported is {letters}")


def check_last(name: str, t: Any, K: int) -> None:
    """Raise ValueError unless the last dimension of `t`, a matrix of any format, is K."""
    if t.shape[-1] != K:
        raise ValueError(f"{name} has shape {tuple(t.shape)}, supported is (..., K) with K = {K}")


def check_ends(offsets: Tensor, E: int, M: int) -> list[int]:
    """0 and the end offsets of E groups of M rows as Python ints, after checking them."""
    check_int("offsets", offsets, (torch.int32, torch.int64))
    check_shape("offsets", offsets, (E,), "(E,)")
    ends: list[int] = [0, *offsets.tolist()]
    if any(lo > hi for lo, hi in pairwise(ends)) or ends[-1] > M:
        raise ValueError(f"offsets is {ends[1:]}, supported is nondecreasing from 0 to M = {M}")
    return ends


def check_int(name: str, t: Tensor | None, dtypes: tuple[torch.dtype, ...]) -> None:
    """Raise TypeError unless `t` is None or has one of the integer `dtypes`."""
    if t is not None and t.dtype not in dtypes:
        raise TypeError(f"{name} has dtype {t.dtype}, supported is {' or '.join(map(str, dtypes))}")


def sequence_bounds(cu_seqlens: Tensor, B: int, T: int, seq_idx: Tensor | None) -> list[int]:
    """cu_seqlens as Python ints, after checking 0 = s0 <= s1 <= ... <= T with T the last one."""
    check_int("cu_seqlens", cu_seqlens, (torch.int32, torch.int64))
    if cu_seqlens.dim() != 1 or cu_seqlens.numel() < 1:
        raise ValueError(
            f"cu_seqlens has shape {tuple(cu_seqlens.shape)}, supported is (num_seqs+1,)"
        )
    if B != 1:
        raise ValueError(f"cu_seqlens needs B == 1, x has B = {B}")
    if seq_idx is not None:
        raise ValueError("seq_idx and cu_seqlens are both given, supported is one of them")
    bounds: list[int] = cu_seqlens.tolist()
    if bounds[0] != 0 or bounds[-1] != T or any(a > b for a, b in pairwise(bounds)):
        raise ValueError(f"cu_seqlens is {bounds}, supported is nondecreasing from 0 to T = {T}")
    return bounds


def check_slots(name: str, indices: Tensor, B: int, slots: int) -> None:
    """Slot indices of an in-place op: int32 (B,), below `slots`, no slot twice, negative = none."""
    check_int(name, indices, (torch.int32,))
    check_shape(name, indices, (B,), "(B,)")
    used = indices[indices >= 0].tolist()
    if any(i >= slots for i in used):
        raise ValueError(f"{name} has the value {max(used)}, supported is below {slots} slots")
    if len(set(used)) != len(used):
        raise ValueError(f"{name} is {indices.tolist()}, a slot may be used by one row only")

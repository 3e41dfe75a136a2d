# SPDX-License-Identifier: Apache-2.0
"""Routed relu^2 experts."""

import torch
from torch import Tensor

from ..quantized import Matrix
from ._args import acc_dtype, check_dim, check_int, check_shape
from ._quantized import scales, unscaled


def moe_mlp(x: Tensor, up: Matrix, down: Matrix, weights: Tensor, indices: Tensor) -> Tensor:
    """out[t] = sum_k weights[t,k] down[e] relu2(up[e] x[t]) with e = indices[t,k].

    x (T,K), up (E,I,K), down (E,K,I), each a Tensor, NVFP4Tensor or FP8Tensor, weights (T,k) fp32,
    indices (T,k) int32 or int64 in [0,E), or -1 for no expert. The fp32 scale of a quantised matrix
    multiplies its product. relu2(up x) is rounded to x.dtype once; the sum over k runs in fp32
    (float64 for float64) in the order of k and is rounded once. Returns (T,K) in x.dtype.
    Raises ValueError or TypeError naming the argument.
    """
    check_dim("x", x, (2,), "(T, K)")
    check_dim("indices", indices, (2,), "(T, k)")
    T, K = x.shape
    top_k = indices.shape[1]
    if len(up.shape) != 3 or up.shape[2] != K:
        raise ValueError(f"up has shape {tuple(up.shape)}, supported is (E, I, K) with K = {K}")
    E, width, _ = up.shape
    if tuple(down.shape) != (E, K, width):
        raise ValueError(
            f"down has shape {tuple(down.shape)}, supported is (E, K, I) = {(E, K, width)}"
        )
    check_shape("weights", weights, (T, top_k), "(T, k)")
    check_shape("indices", indices, (T, top_k), "(T, k)")
    check_int("indices", indices, (torch.int32, torch.int64))
    if indices.numel() and not -1 <= int(indices.min()) <= int(indices.max()) < E:
        raise ValueError(
            f"indices holds {int(indices.min())} to {int(indices.max())}, "
            f"supported is -1 to E-1 = {E - 1}"
        )
    acc = acc_dtype(*(t for t in (x, up, down, weights) if isinstance(t, Tensor)))
    up_scale, down_scale = scales(up, acc), scales(down, acc)
    # Gather the rows of one expert after the other; row r of the sorted list is pair order[r].
    pairs = indices.flatten().long()
    order = pairs.argsort(stable=True)
    counts = torch.bincount(pairs + 1, minlength=E + 1).tolist()
    done = [x.new_zeros(counts[0], K, dtype=acc)]
    lo = counts[0]
    for e, count in enumerate(counts[1:]):
        rows = order[lo : lo + count] // max(top_k, 1)
        h = x.index_select(0, rows).to(acc) @ unscaled(up[e], acc).mT * up_scale[e]
        h = h.relu().square().to(x.dtype)
        done.append(h.to(acc) @ unscaled(down[e], acc).mT * down_scale[e])
        lo += count
    y = torch.cat(done).index_select(0, order.argsort()).view(T, top_k, K)
    out = torch.zeros(T, K, dtype=acc, device=x.device)
    for k in range(top_k):
        out = out + weights[:, k, None].to(acc) * y[:, k]
    return out.to(x.dtype)

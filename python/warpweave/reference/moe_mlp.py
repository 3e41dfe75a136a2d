# SPDX-License-Identifier: Apache-2.0
"""Routed relu^2 experts."""

import torch
from torch import Tensor

from ._args import acc_dtype, check_dim, check_int, check_shape


def moe_mlp(x: Tensor, up: Tensor, down: Tensor, weights: Tensor, indices: Tensor) -> Tensor:
    """out[t] = sum_k weights[t,k] down[e] relu2(up[e] x[t]) with e = indices[t,k].

    x (T,K), up (E,I,K), down (E,K,I), weights (T,k) fp32, indices (T,k) int32 or int64 in [0,E), or
    -1 for no expert. relu2(up x) is rounded to x.dtype once; the sum over k runs in fp32 (float64
    for float64) in the order of k and is rounded once. Returns (T,K) in x.dtype.
    Raises ValueError or TypeError naming the argument.
    """
    check_dim("x", x, (2,), "(T, K)")
    check_dim("up", up, (3,), "(E, I, K)")
    check_dim("indices", indices, (2,), "(T, k)")
    T, K = x.shape
    E, width = up.shape[:2]
    top_k = indices.shape[1]
    check_shape("up", up, (E, width, K), "(E, I, K)")
    check_shape("down", down, (E, K, width), "(E, K, I)")
    check_shape("weights", weights, (T, top_k), "(T, k)")
    check_shape("indices", indices, (T, top_k), "(T, k)")
    check_int("indices", indices, (torch.int32, torch.int64))
    if indices.numel() and not -1 <= int(indices.min()) <= int(indices.max()) < E:
        raise ValueError(
            f"indices holds {int(indices.min())} to {int(indices.max())}, "
            f"supported is -1 to E-1 = {E - 1}"
        )
    acc = acc_dtype(x, up, down, weights)
    # Gather the rows of one expert after the other; row r of the sorted list is pair order[r].
    pairs = indices.flatten().long()
    order = pairs.argsort(stable=True)
    counts = torch.bincount(pairs + 1, minlength=E + 1).tolist()
    done = [x.new_zeros(counts[0], K, dtype=acc)]
    lo = counts[0]
    for e, count in enumerate(counts[1:]):
        rows = order[lo : lo + count] // max(top_k, 1)
        h = x.index_select(0, rows).to(acc) @ up[e].to(acc).mT
        h = h.relu().square().to(x.dtype)
        done.append((h.to(acc) @ down[e].to(acc).mT).to(acc))
        lo += count
    y = torch.cat(done).index_select(0, order.argsort()).view(T, top_k, K)
    out = torch.zeros(T, K, dtype=acc, device=x.device)
    for k in range(top_k):
        out = out + weights[:, k, None].to(acc) * y[:, k]
    return out.to(x.dtype)

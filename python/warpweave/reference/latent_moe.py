# SPDX-License-Identifier: Apache-2.0
"""LatentMoE (arXiv 2512.20856): routed experts in a narrow latent space beside a shared expert."""

from torch import Tensor

from ..quantized import Matrix
from ._args import acc_dtype, check_dim, check_shape
from ._quantized import scales, unscaled
from .moe_mlp import moe_mlp


def latent_moe(
    x: Tensor, weights: Tensor, indices: Tensor, fc1: Matrix | None, up: Matrix, down: Matrix,
    fc2: Matrix | None, shared_up: Matrix | None = None, shared_down: Matrix | None = None,
) -> Tensor:  # fmt: skip
    """out = fc2 moe_mlp(fc1 x) + shared_down relu2(shared_up x).

    x (T,d); fc1 (l,d) and fc2 (d,l), both None for a plain MoE with l = d; up (E,I,l), down
    (E,l,I), weights (T,k) fp32 and indices (T,k) as for `moe_mlp`; shared_up (S,d) and shared_down
    (d,S), both None without a shared expert. Each matrix is a Tensor, NVFP4Tensor or FP8Tensor; the
    fp32 scale of a quantised one multiplies its product. fc1 x, the routed sum and
    relu2(shared_up x) are rounded to x.dtype; the two last products are added in fp32 (float64 for
    float64), rounded once.
    Returns (T,d) in x.dtype. Raises ValueError or TypeError naming the argument.
    """
    check_dim("x", x, (2,), "(T, d)")
    d = x.shape[1]
    if (fc1 is None) != (fc2 is None):
        missing = "fc1" if fc1 is None else "fc2"
        raise ValueError(f"{missing} is None, supported is fc1 and fc2 both given or both None")
    if (shared_up is None) != (shared_down is None):
        missing = "shared_up" if shared_up is None else "shared_down"
        raise ValueError(
            f"{missing} is None, supported is shared_up and shared_down both given or both None"
        )
    matrices = (fc1, up, down, fc2, shared_up, shared_down)
    acc = acc_dtype(x, *(m for m in matrices if isinstance(m, Tensor)))
    v = x.to(acc)
    latent = x
    if fc1 is not None and fc2 is not None:
        check_dim("fc1", fc1, (2,), "(l, d)")
        check_shape("fc1", fc1, (fc1.shape[0], d), "(l, d)")
        check_shape("fc2", fc2, (d, fc1.shape[0]), "(d, l)")
        latent = _product(v, fc1).to(x.dtype)
    if shared_up is not None and shared_down is not None:
        check_dim("shared_up", shared_up, (2,), "(S, d)")
        check_shape("shared_up", shared_up, (shared_up.shape[0], d), "(S, d)")
        check_shape("shared_down", shared_down, (d, shared_up.shape[0]), "(d, S)")
    out = moe_mlp(latent, up, down, weights, indices).to(acc)
    if fc2 is not None:
        out = _product(out, fc2)
    if shared_up is not None and shared_down is not None:
        h = _product(v, shared_up).relu().square().to(x.dtype)
        out = out + _product(h.to(acc), shared_down)
    return out.to(x.dtype)


def _product(v: Tensor, matrix: Matrix) -> Tensor:
    """v (T,K) times the transpose of matrix (N,K), then times its scale, in the dtype of v."""
    return v @ unscaled(matrix, v.dtype).mT * scales(matrix, v.dtype)

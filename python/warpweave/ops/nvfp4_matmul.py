# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import Tensor

from ._quantized import NVFP4Tensor, is_float32, nvfp4_parts, weight_parts
from ._registry import refuse_grad

_op = torch.ops.warpweave.nvfp4_matmul.default


def nvfp4_matmul(
    a: Tensor | NVFP4Tensor, b: NVFP4Tensor, *, out_dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """a @ b.T with 4-bit weights: out[m,n] = s_a[m] s_b[n] Σ_k a[m,k] b[n,k], the global scales s
    outside of the sum.

    Args:
        a: (..., K) float32 or bfloat16 (weight-only: the product is in that dtype, s_a is 1), or
            an NVFP4Tensor (M, K) (both 4-bit: codes times block scales are exact in bfloat16).
        b: NVFP4Tensor (N, K). Rows of its tensors, and of a, may be strided; a copy is made only
            if the elements of a row are not adjacent.
        out_dtype: torch.bfloat16 or torch.float32.

    Returns:
        (..., N) in out_dtype; fp32 accumulation, one rounding. A NaN scale makes its row NaN.

    Errors: ValueError naming the argument; NotImplementedError if a requires grad.
    """
    float32 = is_float32("nvfp4_matmul", out_dtype)
    parts = nvfp4_parts("nvfp4_matmul", "b", b)
    if isinstance(a, Tensor):
        refuse_grad("nvfp4_matmul", a)
    out: Tensor = _op(*weight_parts(a), *parts, float32)
    return out


@torch.library.register_fake("warpweave::nvfp4_matmul")
def _fake(a, a_block_scales, a_scale, b, b_block_scales, b_scale, float32):  # type: ignore[no-untyped-def]
    dtype = torch.float32 if float32 else torch.bfloat16
    return a.new_empty((*a.shape[:-1], b.shape[0]), dtype=dtype)

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import Tensor

from ._registry import refuse_grad

_op = torch.ops.warpweave.grouped_gemm.default
ACTIVATIONS = {None: False, "relu2": True}


def grouped_gemm(a: Tensor, b: Tensor, offsets: Tensor, *, activation: str | None = None) -> Tensor:
    """Rows sorted by expert times that expert's matrix: out[m] = act(a[m] @ b[e].T), e the group of
    m.

    Args:
        a: (M, K) float32 or bfloat16, sorted by expert. Rows may be strided; a copy is made only if
            the K values of a row are not adjacent. The same holds for b.
        b: (E, N, K), dtype of a.
        offsets: (E,) int32 or int64, the end of each group: group e is rows offsets[e-1] to
            offsets[e]. Groups may be empty; rows from offsets[-1] on belong to none and give zeros.
        activation: None or "relu2", max(v, 0)² of the fp32 accumulator.

    Returns:
        (M, N) in a's dtype; fp32 accumulation, one rounding.

    Errors: ValueError naming the argument (on CPU also for offsets that decrease or pass M);
    NotImplementedError if an input requires grad.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"grouped_gemm: 'activation' is {activation!r}; supported: None, 'relu2'")
    refuse_grad("grouped_gemm", a, b)
    out: Tensor = _op(a, b, offsets, ACTIVATIONS[activation])
    return out


@torch.library.register_fake("warpweave::grouped_gemm")
def _fake(a, b, offsets, relu2):  # type: ignore[no-untyped-def]
    return a.new_empty((a.shape[0], b.shape[1]))

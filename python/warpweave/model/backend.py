# SPDX-License-Identifier: Apache-2.0
"""Which implementation of the ops a model runs on, chosen in this one place."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import reference

BACKENDS = {"native": "warpweave.ops", "reference": "warpweave.reference"}
_OPS = (
    *("causal_conv1d", "causal_conv1d_update", "ssd_scan", "ssm_step"),
    *("rms_norm", "moe_route", "moe_mlp", "latent_moe"),
)
_SKINNY_ROWS = 4


def load_backend(name: str) -> SimpleNamespace:
    """The ops of "native" (compiled kernels) or "reference" (plain torch, differentiable).

    The reference scan is the sequential recurrence, except while gradients are enabled: a Python
    loop over time is too slow to train with, so there it is the quadratic form, the same function
    with O(T^2) memory. Raises ValueError for another name, ImportError if nothing was compiled.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend {name!r} is not supported, only {' and '.join(BACKENDS)}")
    source = import_module(BACKENDS[name])
    # Functions instead of the module, so that a model can be copied and pickled.
    ops = SimpleNamespace(**{op: getattr(source, op) for op in _OPS})
    if name == "reference":
        ops.ssd_scan, ops.linear = _reference_scan, F.linear
    else:
        ops.linear = _native_linear
    return ops


def _native_linear(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight'. With few rows the product is bound by reading the weights, and as a grouped
    product of one group it reads them at about twice the rate of torch's; with many rows torch's
    library product is as good as any."""
    rows = x.shape[:-1].numel()
    if x.device.type != "cpu" or not 0 < rows <= _SKINNY_ROWS:
        return F.linear(x, weight)
    from ..ops import grouped_gemm

    end = torch.full((1,), rows, dtype=torch.int32)
    return grouped_gemm(x.reshape(rows, -1), weight[None], end).view(*x.shape[:-1], -1)


def _reference_scan(*args: Any, **kwargs: Any) -> Any:
    quadratic = torch.is_grad_enabled()
    return (reference.ssd_scan_quadratic if quadratic else reference.ssd_scan)(*args, **kwargs)

# SPDX-License-Identifier: Apache-2.0
"""Which implementation of the ops a model runs on, chosen in this one place."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import reference
from ..quantized import Matrix, NVFP4Tensor

BACKENDS = {"native": "warpweave.ops", "reference": "warpweave.reference"}
ACTIVATIONS = ("bf16", "checkpoint")
_OPS = (
    *("causal_conv1d", "causal_conv1d_update", "ssd_scan", "ssm_step"),
    *("rms_norm", "moe_route", "moe_mlp", "latent_moe"),
    *("nvfp4_quantize", "nvfp4_matmul", "nvfp4_grouped_matmul"),
    *("fp8_matmul", "fp8_grouped_matmul", "grouped_gemm"),
)
_SKINNY_ROWS = 4
_E4M3_MAX = 448.0

Inputs = Tensor | str | None


class Backend(SimpleNamespace):
    """The ops, and the products with matrices of any precision that are built on them.

    `activations` "bf16" multiplies quantised matrices with activations as they are, "checkpoint"
    quantises those first as the checkpoint says: by a stored scale, or by the row ("token"). In
    NVFP4 a stored scale is the global one, and the blocks' scales follow from the values.
    """

    activations: str
    dense: Callable[[Tensor, Tensor], Tensor]

    def linear(
        self, x: Tensor, matrix: Matrix, inputs: Inputs = None, out_dtype: torch.dtype | None = None
    ) -> Tensor:
        """x (..., K) times matrix (N, K), in out_dtype or that of x."""
        out_dtype = out_dtype or x.dtype
        y: Tensor
        if isinstance(matrix, Tensor):
            return self.dense(x, matrix).to(out_dtype)
        if inputs is None or self.activations == "bf16":
            if isinstance(matrix, NVFP4Tensor):
                y = self.nvfp4_matmul(x, matrix, out_dtype=out_dtype)
            else:
                y = self.fp8_matmul(x, matrix.data, None, matrix.scale, out_dtype=out_dtype)
            return y
        rows = x.reshape(-1, x.shape[-1])
        if isinstance(matrix, NVFP4Tensor):
            a = self.nvfp4_quantize(rows, global_scale=inputs)
            y = self.nvfp4_matmul(a, matrix, out_dtype=out_dtype)
        else:
            scale = _row_scales(rows, inputs)
            codes = _to_e4m3(rows, scale)
            y = self.fp8_matmul(codes, matrix.data, scale, matrix.scale, out_dtype=out_dtype)
        return y.view(*x.shape[:-1], y.shape[-1])

    def experts(
        self,
        x: Tensor,
        up: Matrix,
        down: Matrix,
        weights: Tensor,
        indices: Tensor,
        up_inputs: Inputs = None,
        down_inputs: Inputs = None,
    ) -> Tensor:
        """`moe_mlp`, also with activations quantised for each expert by its own scale."""
        quantised = up_inputs is not None or down_inputs is not None
        if self.activations == "bf16" or not quantised:
            out: Tensor = self.moe_mlp(x, up, down, weights, indices)
            return out
        pairs = indices.flatten().long()
        order = pairs.argsort(stable=True)
        expert = pairs[order]
        ends = torch.bincount(pairs, minlength=up.shape[0]).cumsum(0)
        h = x.index_select(0, order // indices.shape[1])
        h = self._grouped(h, up, up_inputs, expert, ends, "relu2", x.dtype)
        y = self._grouped(h, down, down_inputs, expert, ends, None, torch.float32)
        y = y.index_select(0, order.argsort()).view(*indices.shape, -1)
        return (y * weights[..., None]).sum(1).to(x.dtype)

    def _grouped(
        self,
        rows: Tensor,
        matrix: Matrix,
        inputs: Inputs,
        expert: Tensor,
        ends: Tensor,
        activation: str | None,
        out_dtype: torch.dtype,
    ) -> Tensor:
        """rows sorted by expert, times the matrix of their expert."""
        y: Tensor
        if isinstance(matrix, Tensor):
            y = self.grouped_gemm(rows, matrix, ends, activation=activation)
            return y.to(out_dtype)
        scale = inputs[expert] if isinstance(inputs, Tensor) and inputs.dim() else inputs
        options: dict[str, Any] = {"activation": activation, "out_dtype": out_dtype}
        if isinstance(matrix, NVFP4Tensor):
            a = rows if scale is None else self.nvfp4_quantize(rows, global_scale=scale)
            y = self.nvfp4_grouped_matmul(a, matrix, ends, **options)
        else:
            a, of_rows = rows, None
            if scale is not None:
                of_rows = _row_scales(rows, scale)
                a = _to_e4m3(rows, of_rows)
            y = self.fp8_grouped_matmul(a, matrix.data, of_rows, matrix.scale, ends, **options)
        return y


def load_backend(name: str, activations: str = "bf16") -> Backend:
    """The ops of "native" (compiled kernels) or "reference" (plain torch, differentiable).

    The reference scan is the sequential recurrence, except while gradients are enabled: a Python
    loop over time is too slow to train with, so there it is the quadratic form, the same function
    with O(T^2) memory. Raises ValueError for another name, ImportError if nothing was compiled.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend {name!r} is not supported, only {' and '.join(BACKENDS)}")
    if activations not in ACTIVATIONS:
        raise ValueError(f"activations {activations!r} must be {' or '.join(ACTIVATIONS)}")
    source = import_module(BACKENDS[name])
    # Functions instead of the module, so that a model can be copied and pickled.
    ops = Backend(**{op: getattr(source, op) for op in _OPS}, activations=activations)
    if name == "reference":
        ops.ssd_scan, ops.dense = _reference_scan, F.linear
    else:
        ops.dense = _native_linear
    return ops


def _row_scales(x: Tensor, inputs: Tensor | str) -> Tensor:
    """The given scale, or that of every row's largest magnitude; 1 where a row is zero."""
    if isinstance(inputs, Tensor):
        return inputs
    amax = x.float().abs().amax(-1)
    return torch.where(amax > 0, amax / _E4M3_MAX, 1.0)


def _to_e4m3(x: Tensor, scale: Tensor) -> Tensor:
    """x / scale, saturating; the cast rounds to nearest even."""
    by_row = scale.view(*scale.shape, *[1] * (x.dim() - scale.dim()))
    return (x.float() / by_row).clamp(-_E4M3_MAX, _E4M3_MAX).to(torch.float8_e4m3fn)


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

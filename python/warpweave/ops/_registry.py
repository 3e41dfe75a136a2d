# SPDX-License-Identifier: Apache-2.0
"""What every op module shares: loading the kernels, refusing gradients that do not exist."""

from __future__ import annotations

import torch

try:
    from warpweave import _native
except ImportError as error:
    raise ImportError(
        f"warpweave's compiled module cannot be loaded ({error}); install a wheel, or build from "
        "source with `pip install --no-build-isolation .` after `pip install torch`"
    ) from error

__all__ = ["_native", "draw_seed", "refuse_grad"]


def refuse_grad(op: str, *tensors: torch.Tensor | None) -> None:
    """Raises if autograd would silently lose a gradient: `op` has no backward yet."""
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor is not None and tensor.requires_grad:
                raise NotImplementedError(
                    f"{op}: an input requires grad, but this op has no backward yet; call it under "
                    f"torch.no_grad(), or use warpweave.reference.{op} to differentiate"
                )


def draw_seed(op: str, rounding: str, generator: torch.Generator | None) -> torch.Tensor | None:
    """The seed of stochastic rounding, on the CPU; None for rounding to nearest."""
    if rounding not in ("nearest", "stochastic"):
        raise ValueError(f"{op}: 'rounding' is {rounding!r}; supported: 'nearest', 'stochastic'")
    if rounding == "nearest":
        return None
    return torch.randint(-(2**63), 2**63 - 1, (), generator=generator)

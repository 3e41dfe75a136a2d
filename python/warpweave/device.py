# SPDX-License-Identifier: Apache-2.0
"""Where a model runs if nobody says."""

from __future__ import annotations

import warnings
from functools import cache

import torch

__all__ = ["default_device"]


@cache
def default_device() -> str:
    """'cuda' where torch and the kernels can both use the GPU, else 'cpu'.

    Warns, once, if torch can use a GPU and the kernels cannot: its driver is too old for them, or
    this build has none for it. (Torch itself warns of a driver that is too old for torch.)
    """
    if not torch.cuda.is_available():
        return "cpu"
    from .ops._registry import _native

    problem = _native.cuda_info()["problem"]
    if problem:
        warnings.warn(f"warpweave runs on the CPU: {problem}", RuntimeWarning, stacklevel=2)
    return "cpu" if problem else "cuda"

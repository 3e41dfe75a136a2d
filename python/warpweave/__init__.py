# SPDX-License-Identifier: Apache-2.0
"""Kernels and models of the hybrid Mamba-Transformer family, for CPU and CUDA."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import reference
from .model import Config, Model

if TYPE_CHECKING:
    from . import ops

__all__ = ["Config", "Model", "ops", "reference"]


def __getattr__(name: str) -> Any:
    # The compiled kernels load on first use: reading a checkpoint's facts needs none.
    if name == "ops":
        return import_module(".ops", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

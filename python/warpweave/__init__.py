# SPDX-License-Identifier: Apache-2.0
"""Kernels and models of the hybrid Mamba-Transformer family, for CPU and CUDA."""

from . import reference
from .model import Config, Model

__all__ = ["Config", "Model", "reference"]

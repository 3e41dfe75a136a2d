# SPDX-License-Identifier: Apache-2.0
"""The ops: torch functions over the native kernels. Each docstring is the op's contract."""

from .causal_conv1d import causal_conv1d
from .grouped_gemm import grouped_gemm
from .latent_moe import latent_moe
from .moe_mlp import moe_mlp
from .ssd_scan import ssd_scan

__all__ = ["causal_conv1d", "grouped_gemm", "latent_moe", "moe_mlp", "ssd_scan"]

# SPDX-License-Identifier: Apache-2.0
"""The ops: torch functions over the native kernels. Each docstring is the op's contract."""

from .causal_conv1d import causal_conv1d
from .causal_conv1d_update import causal_conv1d_update
from .fp8_grouped_matmul import fp8_grouped_matmul
from .fp8_matmul import fp8_matmul
from .grouped_gemm import grouped_gemm
from .latent_moe import latent_moe
from .moe_mlp import moe_mlp
from .moe_route import moe_route
from .nvfp4_grouped_matmul import nvfp4_grouped_matmul
from .nvfp4_matmul import nvfp4_matmul
from .nvfp4_quantize import nvfp4_quantize
from .rms_norm import rms_norm
from .ssd_scan import ssd_scan
from .ssm_step import ssm_step

__all__ = [
    "causal_conv1d",
    "causal_conv1d_update",
    "fp8_grouped_matmul",
    "fp8_matmul",
    "grouped_gemm",
    "latent_moe",
    "moe_mlp",
    "moe_route",
    "nvfp4_grouped_matmul",
    "nvfp4_matmul",
    "nvfp4_quantize",
    "rms_norm",
    "ssd_scan",
    "ssm_step",
]

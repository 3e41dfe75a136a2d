# SPDX-License-Identifier: Apache-2.0
"""The ops: torch functions over the native kernels. Each docstring is the op's contract."""

from .causal_conv1d import causal_conv1d
from .causal_conv1d_update import causal_conv1d_update
from .moe_route import moe_route
from .rms_norm import rms_norm
from .ssm_step import ssm_step

__all__ = ["causal_conv1d", "causal_conv1d_update", "moe_route", "rms_norm", "ssm_step"]

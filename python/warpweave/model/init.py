# SPDX-License-Identifier: Apache-2.0
"""Starting weights of a model that is not loaded from a checkpoint."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .model import Model

_BACK = (
    *("out_proj.weight", "o_proj.weight"),
    *("down_proj.weight", "experts.down_proj", "fc2_latent_proj.weight"),
)


@torch.no_grad()
def init_weights(model: Model) -> None:
    """Random weights, from torch's global generator.

    | tensors                                  | values                                      |
    |------------------------------------------|---------------------------------------------|
    | matrices, embeddings, routers            | normal, std = initializer_range             |
    | projections back to the residual (out,   | the same / sqrt(layers), if                 |
    |   o, down, fc2_latent)                   |   rescale_prenorm_residual                  |
    | conv1d.weight                            | uniform in +-1/sqrt(W)                      |
    | A_log, D                                 | log of uniform in [1, 16], one              |
    | dt_bias                                  | softplus(dt_bias) log-uniform in            |
    |                                          |   [time_step_min, time_step_max]            |
    | norms, biases                            | one, zero                                   |
    """
    config = model.config
    std, bound = config.initializer_range, config.conv_kernel**-0.5
    scale = config.num_hidden_layers**-0.5 if config.rescale_prenorm_residual else 1.0
    for name, p in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith("dt_bias"):
            low, high = math.log(config.time_step_min), math.log(config.time_step_max)
            dt = torch.empty_like(p).uniform_(low, high).exp().clamp(min=config.time_step_floor)
            p.copy_(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus
        elif name.endswith("bias"):
            p.zero_()
        elif name.endswith(("norm.weight", "norm_f.weight", "mixer.D")):
            p.fill_(1)
        elif name.endswith("conv1d.weight"):
            p.uniform_(-bound, bound)
        elif name.endswith("A_log"):
            p.uniform_(1, 16).log_()
        else:
            p.normal_(0, std * scale if name.endswith(_BACK) else std)

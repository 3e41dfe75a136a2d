# SPDX-License-Identifier: Apache-2.0
"""Small random models whose every weight matters, shared by the tests of the model layer."""

from importlib.util import find_spec
from typing import Any

import torch

import warpweave as ww

# (backend, dtype, relative tolerance between two ways to compute the same thing). The native
# kernels join when they are compiled; float64 is what makes a wrong term visible at 1e-10.
BACKENDS = [("reference", torch.float64, 1e-10)]
if find_spec("warpweave._native"):
    BACKENDS.append(("native", torch.float32, 2e-5))

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 56,
    "mamba_num_heads": 6,
    "mamba_head_dim": 16,
    "ssm_state_size": 16,
    "n_groups": 2,
    "chunk_size": 16,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
    "moe_shared_expert_intermediate_size": 40,
    "moe_latent_size": 32,
    "routed_scaling_factor": 2.5,
}


def tiny_config(pattern: str = "M*E-ME*-M", **changes: Any) -> ww.Config:
    return ww.Config(pattern, **(SIZES | changes))


@torch.no_grad()
def randomize(model: torch.nn.Module, seed: int = 0) -> None:
    """Weights that give logits of order one and exercise biases, norms, D and the router bias."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in sorted([*model.named_parameters(), *model.named_buffers()]):
        value = torch.empty(p.shape, dtype=torch.float32).normal_(generator=generator)
        if name.endswith("A_log"):
            value = value.abs()
        elif name.endswith("dt_bias"):
            value = value - 2
        elif name.endswith(("norm.weight", "norm_f.weight", ".D")):
            value = 1 + value / 4
        elif name.endswith("bias"):
            value = value / 4
        elif not name.endswith("conv1d.weight"):
            value = value * 1.5 * p.shape[-1] ** -0.5
        p.copy_(value)


def tiny_model(config: ww.Config | None = None, seed: int = 0, **options: Any) -> ww.Model:
    model = ww.Model(config or tiny_config(), **options).eval()
    randomize(model, seed)
    return model.requires_grad_(False)


def tokens(*shape: int, vocab: int = SIZES["vocab_size"], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocab, shape, generator=generator)


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    """Relative Frobenius distance; inf if the shapes differ or got is not finite."""
    if got.shape != want.shape or not torch.isfinite(got).all():
        return float("inf")
    return float((got.double() - want.double()).norm() / want.double().norm().clamp(min=1e-30))

# SPDX-License-Identifier: Apache-2.0
"""Tiny models in every released quantised layout, and how a test loads one."""

import numpy as np
import torch

from released import F32, rules
from tiny import tiny_config, tiny_model, tokens
from warpweave import Model
from warpweave.model.checkpoint import released_tensors

SIZES = {  # rows of whole blocks; more than ten experts, which files sort 0, 1, 10, 11, 2, ..
    "intermediate_size": 64,
    "moe_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 48,
    "n_routed_experts": 12,
}
LATENT = tiny_config("ME*M-E*", **SIZES)
PLAIN = tiny_config("ME*ME", **SIZES | {"moe_latent_size": None})
DENSE = tiny_config("M-*M-", **SIZES)
SUPER = rules(
    ("*.experts.*", "NVFP4"), ("*.shared_experts.*", "FP8"), ("*.in_proj", "FP8"),
    ("*.out_proj", "FP8"), ("*.o_proj", "FP8"), ("*.mixer.*_proj", None),
)  # fmt: skip
ALL = rules(("*conv1d", None), ("*gate", None), ("embeddings", None), ("lm_head", None))


def everything(algorithm):
    spared = [(name, None) for name in ("*conv1d", "*gate", "embeddings", "lm_head")]
    return rules(*spared, ("*", algorithm))


# config, rule, excluded, FP8 keys and values
LAYOUTS = {
    "Super FP8": (
        LATENT,
        rules(("*.experts.*", "FP8"), ("*shared*", "FP8"), ("*.in_proj", "FP8"),
              ("*.out_proj", "FP8")),
        ["lm_head", "backbone.layers.*.mixer.q_proj", "*k_proj*", "*.v_proj", "*o_proj", "mtp*",
         "backbone.layers.4.mixer", "*latent_proj"],
        True,
    ),
    "Super NVFP4": (LATENT, SUPER, ["lm_head", "mtp*"], True),
    "Ultra NVFP4": (
        LATENT,
        rules(("*.experts.*", "NVFP4"), ("*shared*", "FP8"), ("*.in_proj", "FP8"),
              ("*.out_proj", "FP8")),
        ["*router*", "lm_head", "mtp*"],
        True,
    ),
    "Lightning NVFP4": (
        PLAIN,
        rules(("*experts.*", "W4A16_NVFP4"), ("lm_head", "W4A16_NVFP4"), ("*.in_proj", "FP8"),
              ("*.out_proj", "FP8")),
        ["mtp*"],
        True,
    ),
    "Nano 30B FP8": (
        PLAIN,
        rules(("layers.0.*", None), ("layers.2.*", None), ("*conv1d", None), ("*gate", None),
              ("embeddings", None), ("lm_head", None), ("*", "FP8")),
        ["lm_head", "backbone.layers.0.mixer.in_proj", "backbone.layers.0.mixer.out_proj",
         "backbone.layers.2*", "backbone.layers.3.mixer.conv1d", "mtp*"],
        True,
    ),
    "Nano 4B NVFP4": (
        DENSE,
        rules(("layers.1.*", "NVFP4"), ("layers.4.mixer.up_proj", "FP8"), ("*conv1d", None),
              ("layers.4.*", "NVFP4"), ("layers.3.*", "FP8"), ("embeddings", "W4A16_NVFP4")),
        [],
        False,
    ),
    "NVFP4": (LATENT, everything("NVFP4"), ["lm_head", "re:.*gate$"], False),
    "W4A16": (LATENT, everything("W4A16_NVFP4"), ["lm_head", "*gate"], False),
    "FP8 by channel and token": (
        LATENT, everything("FP8_PER_CHANNEL_PER_TOKEN"), ["lm_head"], False,
    ),
}  # fmt: skip


def dense_and_tensors(config):
    dense = tiny_model(config, backend="reference")
    return dense, {name: t.clone() for name, _, t in released_tensors(dense)}


def put(dense, decoded):
    """The model with the values that the stored codes stand for."""
    for name, _, t in released_tensors(dense):
        if name in decoded:
            t.copy_(torch.from_numpy(np.array(decoded[name], dtype=F32)))
    return dense


def kv_scales(stored, prefix="backbone."):
    """Scales that fit keys and values of order one."""
    for name in [n for n in stored if n.endswith(("k_proj.weight", "v_proj.weight"))]:
        layer = name.removesuffix(".weight")
        stored[f"{layer}.{layer[-6]}_scale"] = F32(0.02)


def load(path, **options):
    return Model.from_pretrained(path, backend="reference", **options)


def logits(model, ids=None):
    with torch.no_grad():
        return model(tokens(2, 7) if ids is None else ids)

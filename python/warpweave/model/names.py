# SPDX-License-Identifier: Apache-2.0
"""Names of tensors: as stored, as in the model, and of the layer they belong to."""

from __future__ import annotations

import re

from .tensorfile import Entry
from .weights import scale_name

PREFIXES = (
    *("", "backbone.", "model.", "language_model.backbone.", "language_model.model."),
    *("model.language_model.", "language_model."),
)
EXPERT = re.compile(r"(layers\.\d+\.mixer\.experts)\.(up_proj|down_proj)(?:_(\w+))?")
_STORED_EXPERT = re.compile(r"(layers\.\d+\.mixer\.experts)\.(\d+)\.(up_proj|down_proj)\.(\w+)")
_KV_SCALE = re.compile(r"(layers\.\d+\.mixer)\.([kv])_scale")
# compressed-tensors' names of the parts of a quantised matrix, and ModelOpt's
_PARTS = {
    "weight_packed": "weight",
    "weight_global_scale": "weight_scale_2",
    "input_global_scale": "input_scale",
}


def plain_name(name: str) -> str:
    """A stored name without its prefix."""
    prefix = max((p for p in PREFIXES if name.startswith(p)), key=len)
    return name[len(prefix) :]


def model_name(name: str) -> tuple[str, int | None]:
    """The model's name of a stored tensor without prefix, and its expert."""
    name = _KV_SCALE.sub(r"\1.\2_proj.\2_scale", name)
    stem, dot, leaf = name.rpartition(".")
    name = stem + dot + _PARTS.get(leaf, leaf)
    if match := _STORED_EXPERT.fullmatch(name):
        leaf = match[3] if match[4] == "weight" else scale_name(match[3], match[4])
        return f"{match[1]}.{leaf}", int(match[2])
    return name, None


def disk_name(name: str, expert: int | None = None) -> str:
    """The released name of a tensor of the model."""
    if expert is not None and (match := EXPERT.fullmatch(name)):
        name = f"{match[1]}.{expert}.{match[2]}.{match[3] or 'weight'}"
    return name if name.startswith("lm_head.") else f"backbone.{name}"


def layer_name(name: str, expert: int | None = None) -> str:
    """The layer of a matrix: "layers.1.mixer.experts.3.up_proj", "lm_head"."""
    if expert is not None:
        stem, _, leaf = name.rpartition(".")
        return f"{stem}.{expert}.{leaf}"
    return name.removesuffix(".weight")


def where(entry: Entry) -> str:
    return f"{entry.name} in {entry.path.name}"

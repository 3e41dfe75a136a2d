# SPDX-License-Identifier: Apache-2.0
"""The largest magnitudes of what linear layers read on a sample of text, for quantised activations.

One layer of the checkpoint is in memory at a time, beside the vectors of the sample.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import checkpoint
from .checkpoint import Progress, Stored
from .config import Config
from .model import Linear, Model, MoE, Sequences


@torch.no_grad()
def calibrate(
    path: str | Path, ids: Tensor, *, backend: str = "native", progress: Progress | None = None
) -> dict[str, float]:
    """Layer name, as "layers.1.mixer.experts.3.up_proj" -> largest magnitude, on token ids (B, T)
    of an unquantised checkpoint. Experts that no token of the sample reaches get the most that the
    others of their layer have."""
    path = Path(path)
    stored = checkpoint.read_directory(path)
    model = Model(Config.from_pretrained(path), dtype=torch.bfloat16, device="meta",
                  backend=backend)  # fmt: skip
    if problems := checkpoint.compare(model, stored):
        raise checkpoint.CheckpointError(path, problems)
    amax: dict[str, float] = defaultdict(float)

    def record(name: str, x: Tensor) -> None:
        amax[name] = max(amax[name], float(x.abs().max()) if x.numel() else 0.0)

    def hook(name: str) -> Any:
        return lambda module, args: record(name, args[0])

    for name, module in model.named_modules():
        if isinstance(module, Linear):
            module.register_forward_pre_hook(hook(name))
    _fill(model, stored, "embeddings.")
    h, x = model.embeddings.rows(ids, model.compute_dtype), None
    seqs = Sequences([0] * ids.shape[0], [ids.shape[1]] * ids.shape[0])
    layer: Any
    for i, layer in enumerate(model.layers):
        _fill(model, stored, f"layers.{i}.")
        mixer = layer.mixer
        if isinstance(mixer, MoE):
            v, h = (layer.norm(h), h) if x is None else layer.norm(x, residual=h)
            x = _experts(mixer, f"layers.{i}.mixer", v, record, amax)
        else:
            x, h = layer(x, h, seqs, None)
        layer.to("meta")
        if progress:
            progress(i + 1, len(model.layers))
    return dict(amax)


def _fill(model: Model, stored: Stored, prefix: str) -> None:
    part = {name: parts for name, parts in stored.pieces.items() if name.startswith(prefix)}
    checkpoint.read_tensors(model, Stored(part), "cpu", None, None)


def _experts(moe: MoE, name: str, x: Tensor, record: Any, amax: dict[str, float]) -> Tensor:
    """The layer's result in parts, so that every matrix' input is seen."""
    rows = x.flatten(0, -2)
    weights, indices = moe.gate(rows)
    fc1, fc2, shared = moe.fc1_latent_proj, moe.fc2_latent_proj, moe.shared_experts
    latent = rows if fc1 is None else fc1(rows)
    up, down = moe.experts.up_proj, moe.experts.down_proj
    leaves = ("up_proj", "down_proj")
    for e in range(up.shape[0]):
        inputs = latent[(indices == e).any(-1)]
        hidden = moe.ops.linear(inputs, up[e]).relu().square()
        for leaf, t in zip(leaves, (inputs, hidden), strict=True):
            record(f"{name}.experts.{e}.{leaf}", t)
    for leaf in leaves:
        names = [f"{name}.experts.{e}.{leaf}" for e in range(up.shape[0])]
        most = max(amax[n] for n in names)
        amax.update({n: amax[n] or most for n in names})
    out = moe.ops.moe_mlp(latent, up, down, weights, indices)
    out = out if fc2 is None else fc2(out)
    return (out if shared is None else out + shared(rows)).view_as(x)

# SPDX-License-Identifier: Apache-2.0
"""An independent writer of the released quantised layouts: numpy, ml_dtypes and struct, none of our
encoders, readers or names. spec: ModelOpt and compressed-tensors as published."""

from __future__ import annotations

import fnmatch
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch

F4, F8, BF16 = ml_dtypes.float4_e2m1fn, ml_dtypes.float8_e4m3fn, ml_dtypes.bfloat16
DTYPES = {"float32": "F32", "bfloat16": "BF16", "uint8": "U8", "float8_e4m3fn": "F8_E4M3"}
F32 = np.float32

Arrays = dict[str, np.ndarray]


def nvfp4(w: np.ndarray) -> tuple[Arrays, np.ndarray]:
    """weight, weight_scale and weight_scale_2 of a matrix, and the values they stand for."""
    top = F32(np.abs(w).max()) / F32(2688)
    blocks = w.reshape(*w.shape[:-1], -1, 16)
    scales = (np.abs(blocks).max(-1) / F32(6) / top).astype(F8)
    step = scales.astype(F32)[..., None] * top
    with np.errstate(invalid="ignore"):
        q = np.where(step > 0, blocks / step, 0).clip(-6, 6).astype(F4)
    values = (q.astype(F32) * step).reshape(w.shape)
    nibbles = q.reshape(w.shape).view(np.uint8) & 15
    codes = nibbles[..., 0::2] | nibbles[..., 1::2] << 4
    return {"weight": codes, "weight_scale": scales, "weight_scale_2": F32(top)}, values


def fp8(w: np.ndarray, per_row: bool = False) -> tuple[Arrays, np.ndarray]:
    amax = np.abs(w).max(-1, keepdims=True) if per_row else np.abs(w).max()
    scale = (amax / F32(448)).astype(F32)
    codes = (w / scale).clip(-448, 448).astype(F8)
    return {"weight": codes, "weight_scale": scale}, codes.astype(F32) * scale


def write_safetensors(path: Path, tensors: Arrays) -> None:
    header: dict[str, Any] = {}
    body = b""
    for name, array in tensors.items():
        data = np.ascontiguousarray(array).tobytes()
        dtype = DTYPES[np.asarray(array).dtype.name]
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": dtype, "shape": list(np.shape(array)), "data_offsets": offsets}
        body += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


Rule = Callable[[str], str | None]  # released name of a layer, without prefix -> algorithm


def rules(*pairs: tuple[str, str | None]) -> Rule:
    """The algorithm of the first wildcard that fits."""

    def rule(layer: str) -> str | None:
        return next((algo for pattern, algo in pairs if fnmatch.fnmatchcase(layer, pattern)), None)

    return rule


def quantise(tensors: dict[str, torch.Tensor], rule: Rule) -> tuple[Arrays, Arrays, dict[str, str]]:
    """Stored arrays, decoded arrays by dense name, and the algorithm of each quantised layer."""
    stored: Arrays = {}
    decoded: Arrays = {}
    layers: dict[str, str] = {}
    for number, (name, t) in enumerate(tensors.items()):
        layer = name.removesuffix(".weight")
        plain = layer.removeprefix("backbone.").removeprefix("model.")
        algo = rule(plain) if name.endswith(".weight") and t.dim() == 2 else None
        if algo is None:
            stored[name] = t.numpy()
            continue
        w = t.float().numpy()
        layers[layer] = algo
        parts, decoded[name] = fp8(w, algo.startswith("FP8_PER")) if "FP8" in algo else nvfp4(w)
        if algo == "FP8_PER_CHANNEL_PER_TOKEN":
            parts["weight_scale"] = parts["weight_scale"][:, 0]
        elif algo in ("NVFP4", "FP8"):
            parts["input_scale"] = F32((1 + number % 7) / 64)
        stored |= {f"{layer}.{part}": value for part, value in parts.items()}
    return stored, decoded, layers


def modelopt(
    layers: dict[str, str], exclude: list[str], kv: bool, mixed: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """hf_quant_config.json, and quantization_config of config.json."""
    kinds = set(layers.values())
    algo = "MIXED_PRECISION" if mixed or len(kinds) > 1 else kinds.pop()
    group = {"group_size": 16} if "NVFP4" in algo else {}
    quantization = {
        "quant_algo": algo, "kv_cache_quant_algo": "FP8" if kv else None,
        "exclude_modules": exclude, **group,
    }  # fmt: skip
    ours = {"ignore": exclude, "quant_algo": algo, "quant_method": "modelopt"}
    if kv:
        ours["kv_cache_scheme"] = {"dynamic": False, "num_bits": 8, "type": "float"}
    if algo == "MIXED_PRECISION":
        detail = {
            name: {"quant_algo": a} | ({"group_size": 16} if "NVFP4" in a else {})
            for name, a in layers.items()
        }
        quantization["quantized_layers"] = ours["quantized_layers"] = detail
    else:
        bits = {"num_bits": 4, "type": "float", "dynamic": False} | group
        if "FP8" in algo:
            bits["num_bits"] = 8
        ours["config_groups"] = {"group_0": {"weights": bits, "targets": ["Linear"]}}
        if "W4A16" not in algo:
            ours["config_groups"]["group_0"]["input_activations"] = bits
    return {"producer": {"name": "modelopt"}, "quantization": quantization}, ours


def compressed(stored: Arrays, layers: dict[str, str], fp8_scale: Any = None) -> Arrays:
    """The same tensors under llm-compressor's names and with its scales."""
    out = {}
    for name, value in stored.items():
        layer, _, part = name.rpartition(".")
        if layer in layers and "NVFP4" in layers[layer]:
            value = 1 / value if part in ("weight_scale_2", "input_scale") else value
            names = {"weight": "weight_packed", "weight_scale_2": "weight_global_scale",
                     "input_scale": "input_global_scale"}  # fmt: skip
            part = names.get(part, part)
            value = np.reshape(value, (1,)) if "global" in part else value
        elif layer in layers and part == "weight_scale":
            value = np.reshape(value, (-1, 1)).astype(fp8_scale or F32)
        out[f"{layer}.{part}"] = value
    return out


def scheme(bits: int, strategy: str, inputs: Any, **weights: Any) -> dict[str, Any]:
    """Of compressed-tensors' metadata."""
    weights = {"num_bits": bits, "type": "float", "strategy": strategy, **weights}
    return {"targets": ["Linear"], "weights": weights, "input_activations": inputs}


def write(
    path: Path, stored: Arrays, config: dict[str, Any], hf: dict[str, Any] | None = None,
    ours: dict[str, Any] | None = None, shards: int = 1,
) -> None:  # fmt: skip
    """A checkpoint directory. Tensors are in the order of safetensors' own writer: wide first, then
    by name."""
    path.mkdir(exist_ok=True)
    order = sorted(stored, key=lambda n: (-np.asarray(stored[n]).dtype.itemsize, n))
    if shards == 1:
        write_safetensors(path / "model.safetensors", {n: stored[n] for n in order})
    else:
        weight_map = {}
        for i in range(shards):
            names = order[i * len(order) // shards : (i + 1) * len(order) // shards]
            file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
            write_safetensors(path / file, {n: stored[n] for n in names})
            weight_map |= dict.fromkeys(names, file)
        index = path / "model.safetensors.index.json"
        index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    if hf is not None:
        (path / "hf_quant_config.json").write_text(json.dumps(hf))
    if ours is not None:
        config = config | {"quantization_config": ours}
    (path / "config.json").write_text(json.dumps(config))

# SPDX-License-Identifier: Apache-2.0
"""Quantised checkpoints that are damaged, or contradict their metadata, are refused by name."""

import numpy as np
import pytest

from quantized_models import LAYOUTS, dense_and_tensors, load, logits, put
from released import BF16, F8, F32, compressed, modelopt, quantise, scheme, write
from tiny import relative, tiny_config
from warpweave.model.checkpoint import CheckpointError

pytestmark = pytest.mark.usefixtures("one_thread")


def flip(tensors, name, change):
    return tensors | {name: change(tensors[name])}


def drop(tensors, *names):
    assert set(names) <= tensors.keys()
    return {n: t for n, t in tensors.items() if n not in names}


def nan_at(index, byte=0x7F):
    def change(scales):
        bits = scales.view(np.uint8).copy()
        bits[index] = byte
        return bits.view(F8)

    return change


E = "backbone.layers.1.mixer.experts"
IN = "backbone.layers.0.mixer.in_proj"
DAMAGES = {
    "truncated scales": (
        lambda t: flip(t, f"{E}.3.up_proj.weight_scale", lambda a: a[:, :1]),
        [f"{E}.3.up_proj.weight_scale has shape [32, 1], the config asks for [32, 2]"],
    ),
    "missing scales": (
        lambda t: drop(t, f"{E}.3.up_proj.weight_scale", f"{IN}.weight_scale"),
        [f"missing {E}.3.up_proj.weight_scale [32, 2]", f"missing {IN}.weight_scale []"],
    ),
    "missing global scale": (
        lambda t: drop(t, f"{E}.0.down_proj.weight_scale_2"),
        [f"missing {E}.0.down_proj.weight_scale_2 []"],
    ),
    "missing input scale": (
        lambda t: drop(t, f"{E}.7.down_proj.input_scale", f"{IN}.input_scale"),
        [f"missing {E}.7.down_proj.input_scale []", f"missing {IN}.input_scale []"],
    ),
    "scale without weight": (
        lambda t: t | {"backbone.layers.2.mixer.q_proj.weight_scale": F32(1)},
        ["unexpected backbone.layers.2.mixer.q_proj.weight_scale []"],
    ),
    "expert scale without weight": (
        lambda t: t | {f"{E}.12.up_proj.weight_scale": np.ones((32, 2), F8)},
        [f"unexpected {E}.12.up_proj.weight_scale"],
    ),
    "wrong shape of codes": (
        lambda t: flip(t, f"{E}.1.up_proj.weight", lambda a: a[:, :8]),
        [f"{E}.1.up_proj.weight has shape [32, 8], the config asks for [32, 16]"],
    ),
    "wrong dtype of scales": (
        lambda t: flip(t, f"{E}.2.up_proj.weight_scale", lambda a: a.astype(F32)),
        [f"{E}.2.up_proj.weight_scale in model", "is torch.float32, not torch.float8_e4m3fn"],
    ),
    "scales as bytes": (
        lambda t: flip(t, f"{E}.2.up_proj.weight_scale", lambda a: a.view(np.uint8)),
        [f"{E}.2.up_proj.weight_scale in model", "is torch.uint8"],
    ),
    "an expert in another precision": (
        lambda t: flip(t, f"{E}.5.up_proj.weight", lambda a: np.zeros((32, 32), F32)),
        [f"{E}.5.up_proj.weight in model", "other experts of the layer are not"],
    ),
    "a dense layer that should be quantised": (
        lambda t: drop(flip(t, f"{IN}.weight", lambda a: a.astype(BF16)), f"{IN}.weight_scale",
                       f"{IN}.input_scale"),
        [f"{IN}.weight in model", "is not quantised, hf_quant_config.json says FP8"],
    ),
    "NaN block scale": (
        lambda t: flip(t, f"{E}.10.up_proj.weight_scale", nan_at((3, 1))),
        [f"{E}.10.up_proj.weight_scale in model", "is nan at [3, 1]"],
    ),
    "negative block scale": (
        lambda t: flip(t, f"{E}.10.down_proj.weight_scale", nan_at((0, 0), 0xB8)),
        [f"{E}.10.down_proj.weight_scale in model", "is -1.0 at [0, 0]"],
    ),
    "NaN global scale": (
        lambda t: t | {f"{E}.4.up_proj.weight_scale_2": F32("nan")},
        [f"{E}.4.up_proj.weight_scale_2 in model", "is nan"],
    ),
    "infinite FP8 scale": (
        lambda t: t | {f"{IN}.weight_scale": F32("inf")},
        [f"{IN}.weight_scale in model", "is inf"],
    ),
    "zero input scale": (
        lambda t: t | {f"{IN}.input_scale": F32(0)},
        [f"{IN}.input_scale in model", "is 0.0"],
    ),
    "NaN scale of keys": (
        lambda t: t | {"backbone.layers.2.mixer.k_proj.k_scale": F32("nan")},
        ["backbone.layers.2.mixer.k_proj.k_scale in model", "is nan"],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def super_nvfp4():
    config, rule, exclude, _ = LAYOUTS["Super NVFP4"]
    dense, tensors = dense_and_tensors(config)
    stored, decoded, layers = quantise(tensors, rule)
    return config, stored, layers, modelopt(layers, exclude, False), put(dense, decoded)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_refused_by_name(super_nvfp4, tmp_path, damage, shards):
    config, stored, _, metadata, _ = super_nvfp4
    change, messages = DAMAGES[damage]
    write(tmp_path, change(stored), config.to_dict(), *metadata, shards=shards)
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path)
    for message in messages:
        assert message in str(caught.value)


def swap_nibbles(a):
    return a >> 4 | a << 4


@pytest.mark.parametrize("fault", ["nibbles", "shifted scales", "reciprocal", "input as weight"])
def test_wrong_values_are_seen(super_nvfp4, tmp_path, fault):
    """What no check can refuse gives other logits than the dequantised model."""
    config, stored, _, metadata, dense = super_nvfp4
    changes = {
        "nibbles": ("up_proj.weight", swap_nibbles),
        "shifted scales": ("up_proj.weight_scale", lambda a: np.roll(a, 1, 1)),
        "reciprocal": ("up_proj.weight_scale_2", lambda a: F32(1 / a)),
        "input as weight": ("down_proj.weight_scale_2", lambda a: F32(1 / 64)),
    }
    leaf, change = changes[fault]
    damaged = {
        n: change(a) if ".experts." in n and n.endswith(leaf) else a for n, a in stored.items()
    }
    write(tmp_path, damaged, config.to_dict(), *metadata)
    assert relative(logits(load(tmp_path)), logits(dense)) > 0.01


def test_metadata_that_contradicts_the_tensors(super_nvfp4, tmp_path):
    config, stored, _, (hf, ours), _ = super_nvfp4
    mixer = "backbone.layers.0.mixer"
    detail = hf["quantization"]["quantized_layers"]

    def refused(hf, ours, *messages, error=CheckpointError):
        for name in ("hf_quant_config.json",):
            (tmp_path / name).unlink(missing_ok=True)
        write(tmp_path, stored, config.to_dict(), hf, ours)
        with pytest.raises(error) as caught:
            load(tmp_path)
        for message in messages:
            assert message in str(caught.value)

    def changed(**values):
        return {"quantization": hf["quantization"] | values}

    other = detail | {f"{mixer}.in_proj": {"quant_algo": "NVFP4"}}
    refused(changed(quantized_layers=other), None, f"{mixer}.in_proj.weight in model",
            "is fp8, hf_quant_config.json says NVFP4")  # fmt: skip
    refused(None, ours | {"quantized_layers": other}, "is fp8, config.json says NVFP4")
    fewer = {n: v for n, v in detail.items() if n != f"{mixer}.in_proj"}
    refused(changed(quantized_layers=fewer), ours, "in_proj.weight in model",
            "is fp8, hf_quant_config.json leaves it unquantised")  # fmt: skip
    more = detail | {"backbone.layers.9.mixer.in_proj": {"quant_algo": "FP8"}}
    refused(changed(quantized_layers=more), None, "layers.9.mixer.in_proj is quantised in hf_quant")
    refused(changed(exclude_modules=["backbone.layers.1*"]), ours, "0.up_proj.weight in model",
            "is nvfp4, hf_quant_config.json leaves it unquantised")  # fmt: skip
    for unknown in ("FP8_PB_WO", "MXFP8", "NVFP4_AWQ", "W4A16_AWQ"):
        other = detail | {f"{mixer}.in_proj": {"quant_algo": unknown}}
        refused(changed(quantized_layers=other), None, f"{mixer}.in_proj.weight in model",
                f"{unknown} of hf_quant_config.json is not supported, only NVFP4, ")  # fmt: skip
        refused(changed(quant_algo=unknown), None, f"{unknown} of hf_quant_config.json is not")
    other = {n: v | {"group_size": 32} for n, v in detail.items()}
    refused(changed(quantized_layers=other), None, "NVFP4 with group_size 32")
    refused(None, None, "in_proj.weight in model", "is fp8, neither hf_quant_config.json nor")
    value = {"error": ValueError}
    refused(changed(kv_cache_quant_algo="NVFP4"), None, "KV cache's 'NVFP4'", **value)
    refused(changed(quantized_layers={}), None, "has no quantized_layers", **value)
    refused({"x": 1}, None, "no object 'quantization'", **value)
    for key in ("exclude_modules", "quantized_layers"):
        refused(changed(**{key: 3}), None, "hf_quant_config.json describes the quantis", **value)
    refused(None, ours | {"ignore": 3}, "config.json describes the quantis", **value)
    refused(None, {"quant_method": "awq"}, "quant_method 'awq'", **value)
    refused(None, {"quant_method": "compressed-tensors"}, "no config_groups", **value)


def test_unknown_compressed_tensors(super_nvfp4, tmp_path):
    config, stored, layers, _, _ = super_nvfp4
    blocks = scheme(8, "block", None, block_structure=[128, 128])
    integers = scheme(4, "group", None, group_size=128) | {"format": "pack-quantized"}
    integers["weights"]["type"] = "int"
    for wrong, message in ((blocks, "float8, strategy block"), (integers, "pack-quantized (int4")):
        ours = {"quant_method": "compressed-tensors", "format": "x", "config_groups": {"g": wrong}}
        write(tmp_path, compressed(stored, layers), config.to_dict(), None, ours)
        with pytest.raises(CheckpointError) as caught:
            load(tmp_path)
        assert message in str(caught.value)


def test_widths_that_are_no_multiple_of_a_block(tmp_path):
    config = tiny_config("-")
    ours = {"quant_method": "modelopt", "quant_algo": "W4A16_NVFP4", "ignore": ["*up_proj"]}
    _, tensors = dense_and_tensors(config)
    stored = {n: t.numpy() for n, t in tensors.items()}
    name = "backbone.layers.0.mixer.down_proj"
    stored |= {f"{name}.weight": np.zeros((48, 28), np.uint8)}
    write(tmp_path, stored, config.to_dict(), None, ours)
    with pytest.raises(CheckpointError, match=r"rows of 56 are no multiple of 16"):
        load(tmp_path)

# SPDX-License-Identifier: Apache-2.0
"""Every released quantised layout, written independently, loads and is the dequantised model."""

import copy
import json
import os
import warnings

import numpy as np
import pytest
import torch

from quantized_models import (
    LATENT,
    LAYOUTS,
    SUPER,
    dense_and_tensors,
    everything,
    kv_scales,
    load,
    logits,
    put,
)
from released import BF16, F32, compressed, modelopt, quantise, scheme, write
from tiny import relative

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("prefix", ["backbone.", "model."])
@pytest.mark.parametrize("name", LAYOUTS)
def test_released_layouts(tmp_path, name, prefix, shards):
    config, rule, exclude, kv = LAYOUTS[name]
    dense, tensors = dense_and_tensors(config)
    stored, decoded, layers = quantise(tensors, rule)
    if kv:
        kv_scales(stored)
    rename = lambda n: n.replace("backbone.", prefix)  # noqa: E731
    stored = {rename(n): a for n, a in stored.items()}
    stored["mtp.layers.0.mixer.q_proj.weight"] = np.zeros((4, 4), BF16)
    layers = {rename(n): a for n, a in layers.items()}
    metadata = modelopt(layers, [rename(n) for n in exclude], kv)
    write(tmp_path, stored, config.to_dict(), *metadata, shards=shards)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = load(tmp_path)
    assert model.dtype == torch.float32
    assert model.kv_cache_dtype == ("fp8" if kv else None)
    assert relative(logits(model), logits(put(dense, decoded))) < 1e-5
    held = [t for n, t in model.state_dict().items() if n.endswith(("weight", "up_proj"))]
    assert any(t.dtype in (torch.uint8, torch.float8_e4m3fn) for t in held)


@pytest.mark.parametrize("which", [0, 1])
def test_one_metadata_file_is_enough(tmp_path, which):
    config, rule, exclude, _ = LAYOUTS["Super NVFP4"]
    dense, tensors = dense_and_tensors(config)
    stored, decoded, layers = quantise(tensors, rule)
    both = modelopt(layers, exclude, False)
    write(
        tmp_path, stored, config.to_dict(), *(m if i == which else None for i, m in enumerate(both))
    )
    assert relative(logits(load(tmp_path)), logits(put(dense, decoded))) < 1e-5


def test_mixed_groups_without_a_list_of_layers(tmp_path):
    """As older exporters write config.json, and nested as in multimodal files."""
    config, rule, exclude, _ = LAYOUTS["Lightning NVFP4"]
    dense, tensors = dense_and_tensors(config)
    stored, decoded, layers = quantise(tensors, rule)
    weight_only = [name for name, algo in layers.items() if algo == "W4A16_NVFP4"]
    bits = {"dynamic": False, "num_bits": 8, "type": "float"}
    fp8 = {
        "weights": bits,
        "input_activations": bits,
        "targets": sorted(set(layers) - {*weight_only}),
    }
    ours = {
        "quant_method": "modelopt",
        "quant_algo": "MIXED_PRECISION",
        "config_groups": {"a": fp8, "b": {"quant_algo": "W4A16_NVFP4", "targets": weight_only}},
        "ignore": exclude,
    }
    nested = {"text_config": config.to_dict(), "vision_config": {}, "quantization_config": ours}
    write(tmp_path, {f"language_model.{name}": a for name, a in stored.items()}, nested)
    assert relative(logits(load(tmp_path)), logits(put(dense, decoded))) < 1e-5


def test_nvfp4_without_activations_in_the_groups_is_weight_only(tmp_path):
    dense, tensors = dense_and_tensors(LATENT)
    stored, decoded, layers = quantise(tensors, everything("W4A16_NVFP4"))
    hf, ours = modelopt(layers, ["lm_head"], False)
    hf["quantization"]["quant_algo"] = ours["quant_algo"] = "NVFP4"
    write(tmp_path, stored, LATENT.to_dict(), hf, ours)
    model = load(tmp_path, activations="checkpoint")
    assert relative(logits(model), logits(put(dense, decoded))) < 1e-5


# compressed-tensors


@pytest.mark.parametrize("inputs", ["NVFP4", "W4A16_NVFP4"])
def test_compressed_tensors_nvfp4(tmp_path, inputs):
    dense, tensors = dense_and_tensors(LATENT)
    stored, decoded, layers = quantise(tensors, everything(inputs))
    spec = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "dynamic": "local"}
    ours = {
        "quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized",
        "config_groups": {"group_0": scheme(4, "tensor_group", spec if inputs == "NVFP4" else None,
                                           group_size=16)},
        "ignore": ["lm_head", "re:.*gate", "re:.*conv1d"], "kv_cache_scheme": None,
    }  # fmt: skip
    write(tmp_path, compressed(stored, layers), LATENT.to_dict(), None, ours)
    model = load(tmp_path)
    assert relative(logits(model), logits(put(dense, decoded))) < 1e-5
    up = model.layers[4].mixer.up_proj
    want = stored["backbone.layers.4.mixer.up_proj.weight_scale_2"]
    assert float(up.weight_scale_2) == pytest.approx(float(want), rel=1e-6)
    if inputs == "NVFP4":
        want = stored["backbone.layers.4.mixer.up_proj.input_scale"]
        assert float(up.input_scale) == pytest.approx(float(want), rel=1e-6)


@pytest.mark.parametrize("strategy", ["channel", "tensor"])
def test_compressed_tensors_fp8(tmp_path, strategy):
    dense, tensors = dense_and_tensors(LATENT)
    algorithm = "FP8_PER_CHANNEL_PER_TOKEN" if strategy == "channel" else "FP8"
    stored, decoded, layers = quantise(tensors, everything(algorithm))
    dynamic = strategy == "channel"
    spec = {"num_bits": 8, "type": "float", "strategy": "token" if dynamic else "tensor",
            "dynamic": dynamic}  # fmt: skip
    ours = {
        "quant_method": "compressed-tensors", "format": "float-quantized",
        "config_groups": {"group_0": scheme(8, strategy, spec)}, "ignore": ["lm_head", "re:.*gate"],
        "kv_cache_scheme": {"num_bits": 8, "type": "float", "strategy": "tensor"},
    }  # fmt: skip
    kv_scales(stored)
    kv = {n: n.replace("k_proj.", "").replace("v_proj.", "") for n in stored}
    stored = {kv[n] if n.endswith(("k_scale", "v_scale")) else n: a for n, a in stored.items()}
    write(tmp_path, compressed(stored, layers), LATENT.to_dict(), None, ours)
    model = load(tmp_path)
    assert relative(logits(model), logits(put(dense, decoded))) < 1e-5
    assert model.kv_cache_dtype == "fp8"
    assert float(model.layers[2].mixer.v_proj.v_scale) == F32(0.02)
    assert model.layers[0].mixer.in_proj.per_token == ({"weight"} if dynamic else set())


def test_scales_stored_in_bf16_are_widened(tmp_path):
    dense, tensors = dense_and_tensors(LATENT)
    stored, _, layers = quantise(tensors, everything("FP8_PER_CHANNEL_PER_TOKEN"))
    ours = {
        "quant_method": "compressed-tensors", "format": "float-quantized",
        "config_groups": {"group_0": scheme(8, "channel", None)}, "ignore": ["lm_head"],
    }  # fmt: skip
    write(tmp_path, compressed(stored, layers, BF16), LATENT.to_dict(), None, ours)
    model = load(tmp_path)
    decoded = {}
    for layer in layers:
        scale = stored[f"{layer}.weight_scale"].astype(BF16).astype(F32)[:, None]
        decoded[f"{layer}.weight"] = stored[f"{layer}.weight"].astype(F32) * scale
    assert relative(logits(model), logits(put(dense, decoded))) < 1e-5


# Stacked experts, memory maps.


def stack(stored, one_scale):
    """Experts of a layer as one tensor, their scales as one each (or one for all)."""
    out, parts = {}, {}
    for name, value in stored.items():
        if ".experts." not in name:
            out[name] = value
            continue
        stem, e, leaf, part = name.rsplit(".", 3)
        full = f"{stem}.{leaf}" + ("" if part == "weight" else f"_{part}")
        parts.setdefault(full, {})[int(e)] = value
    for name, pieces in parts.items():
        value = np.stack([pieces[e] for e in range(len(pieces))])
        out[name] = value[0] if one_scale and value.ndim == 1 else value
    return out


@pytest.mark.parametrize("one_scale", [False, True])
@pytest.mark.parametrize("mmap", [False, True])
def test_stacked_experts(tmp_path, one_scale, mmap):
    dense, tensors = dense_and_tensors(LATENT)
    if one_scale:  # the same largest magnitude everywhere
        for name, t in tensors.items():
            if ".experts." in name:
                t[0, 0] = 3.0
    stored, decoded, layers = quantise(tensors, SUPER)
    if one_scale:
        stored |= {n: F32(0.25) for n in stored if ".experts." in n and n.endswith("input_scale")}
    write(tmp_path, stack(stored, one_scale), LATENT.to_dict(), *modelopt(layers, [], False))
    model = load(tmp_path, mmap=mmap)
    assert relative(logits(model), logits(put(dense, decoded))) < 1e-5
    scale = model.layers[1].mixer.experts.up_proj_weight_scale_2
    assert scale.shape == (() if one_scale else (12,))


@pytest.fixture
def lightning(tmp_path, monkeypatch):
    """A checkpoint whose tensors are all mapped, however small."""
    monkeypatch.setattr("warpweave.model.checkpoint._SMALL", 0)
    config, rule, exclude, _ = LAYOUTS["Lightning NVFP4"]
    dense, tensors = dense_and_tensors(config)
    stored, decoded, layers = quantise(tensors, rule)
    write(tmp_path, stored, config.to_dict(), *modelopt(layers, exclude, False))
    return tmp_path, put(dense, decoded), stored


def mapped_bytes(model, path):
    """Bytes of the tensors that lie in a mapping of a file of the directory."""
    ranges = []
    with open("/proc/self/maps") as maps:
        for line in maps:
            if str(path) in line:
                ranges.append([int(x, 16) for x in line.split()[0].split("-")])
    inside = (t for t in model.state_dict().values()
              if any(lo <= t.data_ptr() < hi for lo, hi in ranges))  # fmt: skip
    return sum(t.nbytes for t in inside)


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="reads Linux's list of mappings")
def test_experts_are_views_of_the_file(lightning):
    path, dense, stored = lightning
    model = load(path)
    experts = model.layers[1].mixer.experts
    order = sorted(range(12), key=str)  # as the file has them: 0, 1, 10, 11, 2, ..
    assert [order[i] for i in experts.place.tolist()] == list(range(12))
    total = sum(t.nbytes for t in model.state_dict().values())
    assert mapped_bytes(model, path) > 0.95 * total
    assert not experts.up_proj.is_contiguous()  # down_proj lies between its experts
    copied = load(path, mmap=False)
    assert mapped_bytes(copied, path) == 0
    assert copied.layers[1].mixer.experts.place is None
    assert relative(logits(model), logits(dense)) < 1e-5
    assert relative(logits(model), logits(copied)) < 1e-6
    for e in range(12):
        want = stored[f"backbone.layers.1.mixer.experts.{e}.up_proj.weight"]
        assert np.array_equal(experts.up_proj[int(experts.place[e])].numpy(), want)


def test_writing_to_a_mapped_weight_leaves_the_file(lightning):
    path, _, _ = lightning
    before = (path / "model.safetensors").read_bytes()
    model = load(path)
    model.layers[1].mixer.experts.up_proj.zero_()
    assert (path / "model.safetensors").read_bytes() == before
    assert load(path).layers[1].mixer.experts.up_proj.any()


def test_mapped_models_are_copied_pickled_and_saved(lightning, tmp_path):
    path, _, _ = lightning
    model = load(path)
    want = logits(model)
    file = tmp_path / "model.pt"
    torch.save(model, file)  # plain pickle cannot load torch's float8
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert torch.equal(logits(other), want)
    model.save_pretrained(tmp_path / "again", max_shard_bytes=20_000)
    again = load(tmp_path / "again")
    assert relative(logits(again), want) < 1e-6
    assert again.layers[1].mixer.experts.place is None
    first = json.loads((tmp_path / "again" / "hf_quant_config.json").read_text())
    assert first["quantization"]["quant_algo"] == "MIXED_PRECISION"
    model.save_pretrained(path)  # over the file it lies in
    assert relative(logits(load(path)), want) < 1e-6


# The module layer.


def test_casts_and_moves_keep_what_is_quantised(lightning):
    path, _, _ = lightning
    model = load(path)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    model.to(torch.bfloat16).to("cpu")
    assert model.dtype == torch.bfloat16
    fixed = model.fixed_names()
    assert "layers.1.mixer.experts.up_proj_weight_scale_2" in fixed
    for name, t in model.state_dict().items():
        want = before[name] if name in fixed else before[name].bfloat16()
        assert t.dtype == want.dtype, name
        assert torch.equal(*(x.flatten().contiguous().view(torch.uint8) for x in (t, want))), name
    assert torch.isfinite(logits(model)).all()
    assert "meta" in {t.device.type for t in model.to("meta").state_dict().values()}

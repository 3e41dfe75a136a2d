# SPDX-License-Identifier: Apache-2.0
"""Every released quantised layout, written independently, loads and is the dequantised model; what
is damaged is refused by name."""

import copy
import json
import os
import warnings

import numpy as np
import pytest
import torch

from released import BF16, F8, F32, modelopt, quantise, rules, write
from tiny import relative, tiny_config, tiny_model, tokens
from warpweave import Model
from warpweave.model.checkpoint import CheckpointError, released_tensors

pytestmark = pytest.mark.usefixtures("one_thread")

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


def compressed(stored, layers, fp8_scale=None):
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


def group(bits, strategy, inputs, **weights):
    weights = {"num_bits": bits, "type": "float", "strategy": strategy, **weights}
    return {"targets": ["Linear"], "weights": weights, "input_activations": inputs}


@pytest.mark.parametrize("inputs", ["NVFP4", "W4A16_NVFP4"])
def test_compressed_tensors_nvfp4(tmp_path, inputs):
    dense, tensors = dense_and_tensors(LATENT)
    stored, decoded, layers = quantise(tensors, everything(inputs))
    spec = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "dynamic": "local"}
    ours = {
        "quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized",
        "config_groups": {"group_0": group(4, "tensor_group", spec if inputs == "NVFP4" else None,
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
        "config_groups": {"group_0": group(8, strategy, spec)}, "ignore": ["lm_head", "re:.*gate"],
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
        "config_groups": {"group_0": group(8, "channel", None)}, "ignore": ["lm_head"],
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


# Damage.


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
    blocks = group(8, "block", None, block_structure=[128, 128])
    integers = group(4, "group", None, group_size=128) | {"format": "pack-quantized"}
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

# SPDX-License-Identifier: Apache-2.0
"""Quantised matrices in the modules of a model, quantised activations, FP8 keys and values, fp16
states."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

import released
from quant import fp8
from quantized_models import (
    DENSE,
    LATENT,
    LAYOUTS,
    dense_and_tensors,
    everything,
    kv_scales,
    load,
    logits,
    put,
)
from released import F8, F32, modelopt, quantise, rules, write
from tiny import relative, tiny_config, tiny_model, tokens
from warpweave import Model, reference
from warpweave import testing as kit
from warpweave.model.backend import load_backend
from warpweave.model.cache import Cache
from warpweave.model.model import Experts
from warpweave.reference._random import draw_seed, stochastic_half
from warpweave.testing import assert_all_caught

pytestmark = pytest.mark.usefixtures("one_thread")


def fake_nvfp4(x, scale):
    """Decoded activations under a stored scale, in numpy."""
    blocks = x.reshape(*x.shape[:-1], -1, 16)
    s = (np.abs(blocks).max(-1) / F32(6) / F32(scale)).clip(max=448).astype(F8).astype(F32)
    step = s[..., None] * F32(scale)
    q = np.where(step > 0, blocks / np.where(step > 0, step, 1), 0).clip(-6, 6)
    return (q.astype(released.F4).astype(F32) * step).reshape(x.shape)


def fake_fp8(x, scale):
    return (x / scale).clip(-448, 448).astype(F8).astype(F32) * scale


def relu2(x):
    return np.maximum(x, 0) ** 2


@pytest.fixture(scope="module")
def super_nvfp4(tmp_path_factory):
    """A directory with FP8 keys and values, its arrays, their values, and the dense model."""
    path = tmp_path_factory.mktemp("super")
    config, rule, exclude, _ = LAYOUTS["Super NVFP4"]
    dense, tensors = dense_and_tensors(config)
    stored, decoded, layers = quantise(tensors, rule)
    kv_scales(stored)
    write(path, stored, config.to_dict(), *modelopt(layers, exclude, True))
    return path, stored, decoded, put(dense, decoded)


def check_activations(model, stored, decoded):
    """W4A4 experts and FP8 layers against numpy on quantised and decoded activations."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(5, 48, generator=generator)
    for layer in ("in_proj", "out_proj"):
        name = f"backbone.layers.0.mixer.{layer}"
        x = torch.randn(5, decoded[f"{name}.weight"].shape[1], generator=generator)
        got = getattr(model.layers[0].mixer, layer)(x).numpy()
        want = fake_fp8(x.numpy(), stored[f"{name}.input_scale"]) @ decoded[f"{name}.weight"].T
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)

    moe, x = model.layers[1].mixer, torch.randn(5, 32, generator=generator)
    weights = torch.rand(5, 3, generator=generator)
    indices = torch.tensor([[0, 11, 2], [3, 2, 1], [10, 0, 9], [4, 5, 2], [6, 7, 8]])
    experts = moe.experts
    at = indices if experts.place is None else experts.place[indices]
    up, down = (experts.matrix(leaf, x.dtype) for leaf in experts.matrices)
    inputs = (experts.inputs("up_proj"), experts.inputs("down_proj"))
    got = moe.ops.experts(x, up, down, weights, at.int(), *inputs).numpy()
    want = np.zeros((5, 32), F32)
    for t in range(5):
        for k in range(3):
            stem = f"backbone.layers.1.mixer.experts.{int(indices[t, k])}"
            h = fake_nvfp4(x[t].numpy(), stored[f"{stem}.up_proj.input_scale"])
            h = relu2(decoded[f"{stem}.up_proj.weight"] @ h)
            h = fake_nvfp4(h, stored[f"{stem}.down_proj.input_scale"])
            want[t] += float(weights[t, k]) * (decoded[f"{stem}.down_proj.weight"] @ h)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


def with_fp8_keys(dense, ids):
    """Logits of the dense model whose keys and values take on the values of their codes."""
    hooks = [
        projection.register_forward_hook(
            lambda module, args, y: torch.from_numpy(fake_fp8(y.numpy(), F32(0.02)))
        )
        for layer, letter in zip(dense.layers, dense.config.pattern, strict=True)
        if letter == "*"
        for projection in (layer.mixer.k_proj, layer.mixer.v_proj)
    ]
    result = logits(dense, ids)
    for hook in hooks:
        hook.remove()
    return result


def check(make):
    """Logits of the dequantised model, without a cache and with FP8 keys, and known products."""
    (_, stored, decoded, dense), model = make.known, make("bf16")
    assert relative(logits(model), logits(dense)) < 1e-5
    ids = tokens(2, 9)
    assert relative(steps(model, ids)[0], with_fp8_keys(dense, ids)) < 1e-3
    check_activations(make("checkpoint"), stored, decoded)


class Loader:
    """Loads the checkpoint and then changes the model."""

    def __init__(self, known, change=lambda model: None):
        self.known, self.change = known, change

    def __call__(self, activations):
        model = load(self.known[0], activations=activations)
        self.change(model)
        return model


def experts_of(model):
    return model.layers[1].mixer.experts


def unplace(model):
    experts_of(model).place = None


def invert_place(model):
    experts_of(model).place = experts_of(model).place.argsort().int()


def swap_inputs(model):
    moe = experts_of(model)
    up, down = moe.up_proj_input_scale, moe.down_proj_input_scale
    moe.up_proj_input_scale, moe.down_proj_input_scale = down, up


def one_scale(name):
    def change(model):
        scale = getattr(experts_of(model), name)
        setattr(experts_of(model), name, scale[:1].expand(12))

    return change


def rolled(name, dim):
    def change(model):
        t = getattr(experts_of(model), name)
        setattr(experts_of(model), name, t.view(torch.uint8).roll(1, dim).view(t.dtype))

    return change


def swap_nibbles(model):
    codes = experts_of(model).down_proj
    experts_of(model).down_proj = codes >> 4 | codes << 4


def scaled(layer, leaf, buffer, factor):
    def change(model):
        module = getattr(model.layers[layer].mixer, leaf)
        setattr(module, buffer, getattr(module, buffer) * factor)

    return change


def forget_keys_scale(model):
    model.layers[2].mixer.kv_scales = lambda stored: (1.0, 0.02)


FAULTS = {
    "experts taken in order": unplace,
    "places inverted": invert_place,
    "one global scale for all experts": one_scale("up_proj_weight_scale_2"),
    "one input scale for all experts": one_scale("down_proj_input_scale"),
    "input scales of up and down swapped": swap_inputs,
    "block scales of the next expert": rolled("up_proj_weight_scale", 0),
    "block scales of the next block": rolled("up_proj_weight_scale", 2),
    "codes of the next row": rolled("down_proj", 1),
    "nibbles swapped": swap_nibbles,
    "FP8 scale off": scaled(0, "out_proj", "weight_scale", 1.01),
    "FP8 input scale off": scaled(0, "in_proj", "input_scale", 2.5),
    "scale of keys too small": scaled(2, "k_proj", "k_scale", 0.01),
    "scale of values too small": scaled(2, "v_proj", "v_scale", 0.01),
    "scale of keys ignored": forget_keys_scale,
}


def test_every_planted_fault_is_caught(super_nvfp4, monkeypatch):
    monkeypatch.setattr("warpweave.model.checkpoint._SMALL", 0)  # the experts are views, reordered
    plant = {name: lambda make, c=change: Loader(make.known, c) for name, change in FAULTS.items()}
    assert_all_caught(Loader(super_nvfp4), plant, check)


def test_quantised_activations_cost_little(super_nvfp4):
    path, *_ = super_nvfp4
    plain, model = load(path), load(path, activations="checkpoint")
    assert 1e-4 < relative(logits(model), logits(plain)) < 0.5


def test_activations_by_token(tmp_path):
    _, tensors = dense_and_tensors(LATENT)
    stored, decoded, layers = quantise(tensors, everything("FP8_PER_CHANNEL_PER_TOKEN"))
    write(tmp_path, stored, LATENT.to_dict(), *modelopt(layers, ["lm_head"], False))
    model = load(tmp_path, activations="checkpoint")
    x = torch.randn(5, 48) * torch.tensor([1e-3, 1, 30, 0, 1])[:, None]
    got = model.layers[0].mixer.in_proj(x).numpy()
    scale = np.where(
        (amax := np.abs(x.numpy()).max(-1, keepdims=True)) > 0, amax / F32(448), F32(1)
    )
    want = fake_fp8(x.numpy(), scale) @ decoded["backbone.layers.0.mixer.in_proj.weight"].T
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
    assert torch.isfinite(logits(model)).all()
    with pytest.raises(ValueError, match="activations 'int8'"):
        load(tmp_path, activations="int8")


@pytest.mark.parametrize("inputs", ["one", "each", "token", "only up"])
def test_fp8_experts_quantise_their_rows(inputs):
    """By one scale, one for each expert or one a row, before either product or one of them."""
    g = kit.generator(inputs)
    x, weights = torch.randn(6, 16, generator=g), torch.rand(6, 2, generator=g)
    indices = torch.rand(6, 5, generator=g).argsort(-1)[:, :2].int()
    matrices = [fp8((5, 24, 16), g), fp8((5, 16, 24), g)]
    given = [torch.rand(5, generator=g) + 0.1 for _ in matrices]
    given = [{"each": s, "token": "token"}.get(inputs, s[0]) for s in given]
    if inputs == "only up":
        matrices[1], given[1] = matrices[1].dequantize(), None

    def product(v, i, e):
        m, s = matrices[i], given[i]
        if s is not None:
            scale = v.abs().max() / 448 if inputs == "token" else s.expand(5)[e]
            v = torch.from_numpy(fake_fp8(v.numpy(), scale.numpy()))
        return (m[e] if isinstance(m, torch.Tensor) else m[e].dequantize()) @ v

    want = torch.zeros(6, 16)
    for t in range(6):
        for k in range(2):
            e = int(indices[t, k])
            want[t] += weights[t, k] * product(product(x[t], 0, e).relu().square(), 1, e)
    for backend in ("reference", "native") if find_spec("warpweave._native") else ("reference",):
        experts = load_backend(backend, "checkpoint").experts
        assert relative(experts(x, *matrices, weights, indices, *given), want) < 1e-4


def test_embeddings_of_both_formats(tmp_path):
    for algorithm in ("W4A16_NVFP4", "FP8", "FP8_PER_CHANNEL_PER_TOKEN"):
        dense, tensors = dense_and_tensors(DENSE)
        rule = rules(("embeddings", algorithm), ("lm_head", "W4A16_NVFP4"))
        stored, decoded, layers = quantise(tensors, rule)
        write(tmp_path, stored, DENSE.to_dict(), *modelopt(layers, [], False, mixed=True))
        model = load(tmp_path, dtype=torch.bfloat16)
        ids = tokens(2, 5)
        got = model.embeddings.rows(ids, torch.bfloat16)
        want = torch.from_numpy(decoded["backbone.embeddings.weight"])[ids].bfloat16()
        assert torch.equal(got, want), algorithm
        assert relative(logits(load(tmp_path)), logits(put(dense, decoded))) < 1e-5


def test_tied_quantised_embeddings(tmp_path):
    config = tiny_config("M*", tie_word_embeddings=True)
    dense, tensors = dense_and_tensors(config)
    assert "lm_head.weight" not in tensors
    stored, decoded, layers = quantise(tensors, rules(("embeddings", "W4A16_NVFP4")))
    ours = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION",
            "quantized_layers": {n: {"quant_algo": a} for n, a in layers.items()}}  # fmt: skip
    write(tmp_path, stored, config.to_dict(), None, ours)
    model = load(tmp_path)
    assert model.lm_head.weight is model.embeddings.weight
    assert relative(logits(model), logits(put(dense, decoded))) < 1e-5


# The caches.


def steps(model, ids):
    """Logits of a prompt of four tokens and then one token after the other."""
    cache = model.new_cache(ids.shape[0])
    with torch.no_grad():
        pieces = [model(ids[:, :4], cache=cache)]
        pieces += [model(ids[:, t : t + 1], cache=cache) for t in range(4, ids.shape[1])]
    return torch.cat(pieces, 1), cache


def test_fp8_keys_and_values(tmp_path):
    config = tiny_config("*M*")
    dense, tensors = dense_and_tensors(config)
    stored, decoded, layers = quantise(tensors, rules(("*.o_proj", "FP8")))
    kv_scales(stored)
    write(
        tmp_path,
        stored,
        config.to_dict(),
        *modelopt(layers, ["lm_head", "*[qkv]_proj", "*in_proj", "*out_proj"], True),
    )
    ids = tokens(2, 9)
    model, wide = load(tmp_path), load(tmp_path, kv_cache_dtype="bf16")
    got, cache = steps(model, ids)
    want, wide_cache = steps(wide, ids)
    assert cache.nbytes() < wide_cache.nbytes()
    state, exact = cache.layers[0], wide_cache.layers[0]
    assert state.k.dtype == torch.float8_e4m3fn
    for t, x in ((state.k, exact.k), (state.v, exact.v)):
        codes = (x[:, :, :9].numpy() / F32(0.02)).clip(-448, 448).astype(F8)
        assert np.array_equal(t[:, :, :9].view(torch.uint8).numpy(), codes.view(np.uint8))
    assert 1e-4 < relative(got, want) < 0.1
    assert relative(want, logits(put(dense, decoded), ids)) < 1e-5
    # Packed sequences of different length read the same values.
    ends = torch.tensor([0, 9, 13], dtype=torch.int32)
    packed = model.new_cache(2)
    with torch.no_grad():
        both = model(torch.cat([ids[:1], ids[1:, :4]], 1), cache=packed, cu_seqlens=ends)
    assert relative(both[:, :9], got[:1]) < 1e-5
    assert relative(both[:, 9:], got[1:, :4]) < 1e-5
    with pytest.raises(ValueError, match="kv_cache_dtype 'int8'"):
        load(tmp_path, kv_cache_dtype="int8")


def test_fp8_keys_and_values_without_scales():
    model = tiny_model(tiny_config("*M*"), backend="reference", kv_cache_dtype="fp8")
    ids = tokens(1, 9)
    assert 1e-4 < relative(steps(model, ids)[0], logits(model, ids)) < 0.1


def test_fp16_states_round_as_asked():
    config = tiny_config("MM-")
    ids = tokens(2, 12)
    options = {"backend": "reference", "ssm_cache_dtype": "float16"}
    want, _ = steps(tiny_model(config, backend="reference"), ids)
    nearest, cache = steps(tiny_model(config, **options), ids)
    assert cache.layers[0].ssm.dtype == torch.float16
    random = tiny_model(config, **options, ssm_rounding="stochastic")
    one, first = steps(random, ids)
    two, second = steps(random, ids)
    assert torch.equal(one, two)
    assert torch.equal(first.layers[1].ssm, second.layers[1].ssm)
    cache = random.new_cache(2, seed=1)
    with torch.no_grad():
        random(ids, cache=cache)
    assert not torch.equal(cache.layers[1].ssm, first.layers[1].ssm)
    for got in (nearest, one):
        assert 1e-6 < relative(got, want) < 1e-2
    for bad in ({"ssm_cache_dtype": "float8"}, {"ssm_rounding": "stochastic"}):
        with pytest.raises(ValueError, match="ssm_"):
            Model(config, backend="reference", **bad)


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_states_of_prompts_are_rounded_like_those_of_steps(backend):
    if backend == "native":
        pytest.importorskip("warpweave._native")
    config = tiny_config("M")
    cache = Cache(config, 3, ssm_dtype="float16", ssm_rounding="stochastic", seed=4)
    state = cache.layers[0]
    state.ssm.fill_(float("inf"))
    ssm = torch.randn(state.ssm.shape) * 1e-3
    state.keep(ssm, load_backend(backend))
    rows = torch.arange(ssm.shape[:-1].numel()).view(ssm.shape[:-1])
    seed = draw_seed(torch.Generator().manual_seed(4))
    assert torch.equal(state.ssm, stochastic_half(ssm, rows, seed))
    none = Cache(config, 0, ssm_dtype="float16", ssm_rounding="stochastic").layers[0]
    none.keep(ssm[:0], load_backend(backend))


def test_hold_checks_the_shape():
    experts = Experts(2, 16, 32)
    good = reference.nvfp4_quantize(torch.randn(2, 16, 32))
    experts.hold("up_proj", good, torch.ones(2))
    assert list(experts.quantized()) == ["up_proj"]
    with pytest.raises(ValueError, match=r"down_proj has shape \(2, 32, 16\), not \(2, 16, 32\)"):
        experts.hold("down_proj", good)


@pytest.mark.skipif(not find_spec("warpweave._native"), reason="needs the compiled kernels")
@pytest.mark.parametrize("activations", ["bf16", "checkpoint"])
@pytest.mark.parametrize("layout", ["Super NVFP4", "Lightning NVFP4", "Super FP8", "Nano 4B NVFP4"])
def test_native_kernels_read_the_files_as_the_reference(tmp_path, monkeypatch, layout, activations):
    """Experts are strided views in the file's order; prompts and single tokens."""
    monkeypatch.setattr("warpweave.model.checkpoint._SMALL", 0)
    config, rule, exclude, kv = LAYOUTS[layout]
    _, tensors = dense_and_tensors(config)
    stored, _, layers = quantise(tensors, rule)
    write(tmp_path, stored, config.to_dict(), *modelopt(layers, exclude, kv))
    ids = tokens(2, 9)
    options = {"activations": activations}
    want, _ = steps(load(tmp_path, **options), ids)
    got, _ = steps(Model.from_pretrained(tmp_path, **options), ids)
    # A last bit of an activation can move its code, and a code is a sixteenth of the value.
    assert relative(got, want) < (1e-3 if kv or activations == "checkpoint" else 2e-5)
    options["dtype"] = torch.bfloat16
    noise = relative(steps(load(tmp_path, **options), ids)[0], want)
    narrow, _ = steps(Model.from_pretrained(tmp_path, **options), ids)
    assert relative(narrow, want) < 2 * noise

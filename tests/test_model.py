# SPDX-License-Identifier: Apache-2.0
"""The model against itself: however tokens are cut into calls, the numbers stay the same.

Against another implementation it is compared in test_parity.py.
"""

import copy
from itertools import pairwise

import pytest
import torch

from tiny import BACKENDS, SIZES, relative, tiny_config, tiny_model, tokens
from warpweave import Model

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.parametrize(
        ("backend", "dtype", "tolerance"), BACKENDS, ids=[name for name, *_ in BACKENDS]
    ),
]

CONFIGS = {
    "latent": {},
    "plain": {"moe_latent_size": None, "n_groups": 3, "conv_kernel": 2},
    "grouped": {"n_group": 4, "topk_group": 2, "norm_topk_prob": False},
    "biased": {"mlp_bias": True, "use_bias": True, "use_conv_bias": False, "conv_kernel": 3},
    "unshared": {"n_shared_experts": 0, "time_step_limit": (0.05, 0.3)},
}


def states(cache):
    """All recurrent states, and the filled part of keys and values."""
    found = []
    for layer in cache.layers:
        if hasattr(layer, "ssm"):
            found += [layer.conv, layer.ssm]
        elif layer is not None:
            found += [layer.k[b, :, :n] for b, n in enumerate(cache.lengths)]
            found += [layer.v[b, :, :n] for b, n in enumerate(cache.lengths)]
    return found


@torch.no_grad()
def run(model, ids, cuts):
    """Logits and cache of ids fed in pieces that end at `cuts`."""
    cache = model.new_cache(ids.shape[0])
    edges = [0, *cuts, ids.shape[1]]
    pieces = [model(ids[:, a:b], cache=cache) for a, b in pairwise(edges) if b > a]
    return torch.cat(pieces, 1), cache


@pytest.mark.parametrize("name", CONFIGS)
def test_prefill_split_at_every_position(name, backend, dtype, tolerance):
    model = tiny_model(tiny_config(**CONFIGS[name]), dtype=dtype, backend=backend)
    ids = tokens(2, 19)
    with torch.no_grad():
        want = model(ids)
    _, whole = run(model, ids, [])
    for cut in range(1, 19):
        got, cache = run(model, ids, [cut])
        assert relative(got, want) < tolerance, cut
        assert cache.lengths == [19, 19]
        for one, other in zip(states(cache), states(whole), strict=True):
            assert relative(one, other) < tolerance, cut


@pytest.mark.parametrize("name", CONFIGS)
def test_decode_equals_prefill(name, backend, dtype, tolerance):
    model = tiny_model(tiny_config(**CONFIGS[name]), dtype=dtype, backend=backend)
    ids = tokens(2, 19)
    with torch.no_grad():
        want = model(ids)
    for start in (1, 2, 7):  # shorter and longer than the convolution's window
        got, _ = run(model, ids, range(start, 19))
        assert relative(got, want) < tolerance, start


def test_packed_sequences_do_not_see_each_other(backend, dtype, tolerance):
    model = tiny_model(dtype=dtype, backend=backend)
    prompts = [tokens(n, seed=n) for n in (7, 0, 1, 18)]
    cu = torch.tensor([0, 7, 7, 8, 26], dtype=torch.int32)
    with torch.no_grad():
        alone = [model(p[None])[0] for p in prompts if len(p)]
        for cache in (None, model.new_cache(4)):
            packed = model(torch.cat(prompts)[None], cu_seqlens=cu, cache=cache)
            assert relative(packed[0], torch.cat(alone)) < tolerance
    assert cache.lengths == [7, 0, 1, 18]


def test_batch_of_different_lengths_equals_each_alone(backend, dtype, tolerance):
    model = tiny_model(dtype=dtype, backend=backend)
    lengths = (9, 1, 5)
    texts = [tokens(n + 6, seed=n) for n in lengths]
    with torch.no_grad():
        alone = [model(text[None])[0] for text in texts]
        cache = model.new_cache(3)
        cu = torch.tensor([0, 9, 10, 15])
        heads = [text[:n] for text, n in zip(texts, lengths, strict=True)]
        model(torch.cat(heads)[None], cache=cache, cu_seqlens=cu)
        steps = (slice(0, 1), slice(1, 4), slice(4, 5), slice(5, 6))  # decode, a chunk, decode
        for step in steps:
            batch = [text[n:][step] for text, n in zip(texts, lengths, strict=True)]
            got = model(torch.stack(batch), cache=cache)
            want = [a[n:][step] for a, n in zip(alone, lengths, strict=True)]
            assert relative(got, torch.stack(want)) < tolerance, step
    assert cache.lengths == [15, 7, 11]


def test_packed_prefill_in_chunks(backend, dtype, tolerance):
    model = tiny_model(dtype=dtype, backend=backend)
    texts = [tokens(11, seed=1), tokens(4, seed=2)]
    cache = model.new_cache(2)
    with torch.no_grad():
        first = model(
            torch.cat([texts[0][:5], texts[1][:3]])[None],
            cache=cache,
            cu_seqlens=torch.tensor([0, 5, 8]),
        )
        second = model(
            torch.cat([texts[0][5:], texts[1][3:]])[None],
            cache=cache,
            cu_seqlens=torch.tensor([0, 6, 7]),
        )
        for i, text in enumerate(texts):
            got = [first[0, :5], second[0, :6]] if i == 0 else [first[0, 5:], second[0, 6:]]
            assert relative(torch.cat(got), model(text[None])[0]) < tolerance


def test_long_prefills_attend_in_blocks(backend, dtype, tolerance, monkeypatch):
    model = tiny_model(tiny_config("*M*"), dtype=dtype, backend=backend)
    ids = tokens(2, 40)
    want, _ = run(model, ids, [11])
    monkeypatch.setattr("warpweave.model.model.MASK_BYTES", 7 * 40)
    got, _ = run(model, ids, [11])
    assert relative(got, want) < tolerance


def test_packed_calls_reserve_for_the_longest_sequence(backend, dtype, tolerance):
    model = tiny_model(tiny_config("*"), dtype=dtype, backend=backend)
    cache = model.new_cache(2, capacity=8)
    with torch.no_grad():
        model(tokens(1, 12), cache=cache, cu_seqlens=torch.tensor([0, 8, 12]))
    assert cache.layers[0].k.shape[2] == 8


def test_logits_to_keep(backend, dtype, tolerance):
    model, ids = tiny_model(dtype=dtype, backend=backend), tokens(2, 9)
    with torch.no_grad():
        whole = model(ids)
        assert torch.equal(model(ids, logits_to_keep=0), whole)
        assert relative(model(ids, logits_to_keep=1), whole[:, -1:]) < tolerance
        assert relative(model(ids, logits_to_keep=4), whole[:, -4:]) < tolerance
        picked = torch.tensor([7, 2])
        assert relative(model(ids, logits_to_keep=picked), whole[:, picked]) < tolerance
        none = torch.tensor([], dtype=torch.int64)
        assert model(ids, logits_to_keep=none).shape == (2, 0, SIZES["vocab_size"])


def test_empty_calls(backend, dtype, tolerance):
    model = tiny_model(dtype=dtype, backend=backend)
    cache = model.new_cache(2)
    ids = tokens(2, 5)
    with torch.no_grad():
        assert model(ids[:, :0]).shape == (2, 0, SIZES["vocab_size"])
        assert model(ids[:0]).shape == (0, 5, SIZES["vocab_size"])
        model(ids[:, :3], cache=cache)
        assert model(ids[:, :0], cache=cache).shape == (2, 0, SIZES["vocab_size"])
        assert relative(model(ids[:, 3:], cache=cache), model(ids)[:, 3:]) < tolerance


def test_tied_embeddings(backend, dtype, tolerance):
    model = Model(tiny_config(tie_word_embeddings=True), dtype=dtype, backend=backend)
    assert model.lm_head.weight is model.embeddings.weight
    ids = tokens(1, 5)
    with torch.no_grad():
        before = model(ids)
        model.embeddings.weight[int(tokens(1, seed=9))] += 1
        assert relative(model(ids), before) > 1e-3


def test_time_step_limit_and_its_compatibility_switch(backend, dtype, tolerance):
    config = tiny_config("M", time_step_limit=(0.0, 0.01), time_step_min=0.5, time_step_max=1.0)
    models = {
        clamp: tiny_model(config, dtype=dtype, backend=backend, dt_clamp=clamp)
        for clamp in ("config", "transformers")
    }
    free = tiny_model(
        tiny_config("M", time_step_limit=(0.5, float("inf"))), dtype=dtype, backend=backend
    )
    unclamped = tiny_model(tiny_config("M"), dtype=dtype, backend=backend)
    ids = tokens(1, 6)
    with torch.no_grad():
        want = free(ids)
        assert relative(models["config"](ids), want) > 1e-3
        assert relative(models["transformers"](ids), want) < tolerance
        # A single-token step is not clamped by transformers.
        caches = {}
        for key, model in (("t", models["transformers"]), ("f", free), ("u", unclamped)):
            caches[key] = model.new_cache(1)
            model(ids[:, :5], cache=caches[key])
        for theirs, ours in zip(caches["f"].layers, caches["u"].layers, strict=True):
            ours.conv.copy_(theirs.conv)
            ours.ssm.copy_(theirs.ssm)
        got = models["transformers"](ids[:, 5:], cache=caches["t"])
        assert relative(got, unclamped(ids[:, 5:], cache=caches["u"])) < tolerance


def test_projections_are_read_as_views(backend, dtype, tolerance):
    model = tiny_model(tiny_config("M"), dtype=dtype, backend=backend)
    mixer = model.layers[0].mixer
    seen = {}
    conv, scan, norm = (getattr(mixer.ops, n) for n in ("causal_conv1d", "ssd_scan", "rms_norm"))

    def record_conv(x, *args, **kwargs):
        seen["x"] = x.untyped_storage().data_ptr()
        out, state = conv(x, *args, **kwargs)
        seen["conv"] = out.untyped_storage().data_ptr()
        return out, state

    def record_scan(x, dt, A, B, C, **kwargs):
        seen["dt"] = dt.untyped_storage().data_ptr()
        seen["xBC"] = {t.untyped_storage().data_ptr() for t in (x, B, C)}
        return scan(x, dt, A, B, C, **kwargs)

    def record_norm(x, weight, *, gate=None, **kwargs):
        if gate is not None:
            seen["z"] = gate.untyped_storage().data_ptr()
        return norm(x, weight, gate=gate, **kwargs)

    mixer.ops.causal_conv1d, mixer.ops.ssd_scan = record_conv, record_scan
    mixer.ops.rms_norm = record_norm
    with torch.no_grad():
        model(tokens(2, 5))
    assert seen["z"] == seen["x"] == seen["dt"]
    assert seen["xBC"] == {seen["conv"]}


def test_narrow_models_keep_their_fp32_tensors(backend, dtype, tolerance):
    wide = tiny_model(dtype=torch.float32, backend=backend)
    narrow = copy.deepcopy(wide).to(torch.bfloat16)
    kept = narrow.fixed_names()
    assert len(kept) == 3 * 3 + 2  # three Mamba layers, two routers
    for name, t in narrow.state_dict().items():
        assert t.dtype == (torch.float32 if name in kept else torch.bfloat16), name
        if name in kept:
            assert torch.equal(t, wide.state_dict()[name])


def test_bf16_is_close_to_fp32(backend, dtype, tolerance):
    # Without a router, where a rounding may choose another expert.
    wide = tiny_model(tiny_config("M*-M"), dtype=torch.float32, backend=backend)
    narrow = copy.deepcopy(wide).to(torch.bfloat16)
    ids = tokens(2, 9)
    with torch.no_grad():
        got, want = narrow(ids), wide(ids)
    assert got.dtype == torch.float32
    assert 1e-4 < relative(got, want) < 0.03  # eight bits of mantissa through four layers


REFUSED_CALLS = [
    ({"input_ids": tokens(6)}, "input_ids"),
    ({"input_ids": tokens(2, 6).double()}, "input_ids"),
    ({"input_ids": tokens(3, 6)}, "cache holds 2 sequences, the call has 3"),
    ({"input_ids": tokens(1, 6), "cu_seqlens": torch.tensor([0, 6])}, "the call has 1"),
    ({"input_ids": tokens(2, 6), "cu_seqlens": torch.tensor([0, 6, 12])}, "cu_seqlens"),
    ({"input_ids": tokens(1, 6), "cu_seqlens": torch.tensor([0, 3, 5])}, "cu_seqlens"),
    ({"input_ids": tokens(1, 6), "cu_seqlens": torch.tensor([1, 3, 6])}, "cu_seqlens"),
    ({"input_ids": tokens(1, 6), "cu_seqlens": torch.tensor([0, 7, 6])}, "cu_seqlens"),
    ({"input_ids": tokens(2, 6), "logits_to_keep": -1}, "logits_to_keep"),
    (
        {
            "input_ids": tokens(1, 6),
            "cu_seqlens": torch.tensor([0, 3, 6]),
            "logits_to_keep": 1,
        },
        "logits_to_keep",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED_CALLS, ids=lambda v: str(v)[:20])
def test_refused_calls_leave_the_cache_alone(call, message, backend, dtype, tolerance):
    model = tiny_model(dtype=dtype, backend=backend)
    cache = model.new_cache(2)
    with torch.no_grad():
        model(tokens(2, 5), cache=cache)
        before = copy.deepcopy(states(cache))
        with pytest.raises(ValueError, match=message):
            model(cache=cache, **call)
    assert cache.lengths == [5, 5]
    for a, b in zip(states(cache), before, strict=True):
        assert torch.equal(a, b)


def test_token_outside_the_vocabulary_leaves_the_cache_alone(backend, dtype, tolerance):
    model = tiny_model(dtype=dtype, backend=backend)
    cache = model.new_cache(1)
    with pytest.raises(IndexError), torch.no_grad():
        model(torch.tensor([[SIZES["vocab_size"]]]), cache=cache)
    assert cache.lengths == [0]


def test_keys_and_values_grow_by_doubling(backend, dtype, tolerance):
    model = tiny_model(tiny_config("*"), dtype=dtype, backend=backend)
    cache = model.new_cache(1, capacity=3)
    capacities = []
    with torch.no_grad():
        for t in range(20):
            model(tokens(1, 1, seed=t), cache=cache)
            capacities.append(cache.layers[0].k.shape[2])
    assert sorted(set(capacities)) == [3, 6, 12, 24]
    assert cache.nbytes() == 2 * 24 * 2 * 16 * dtype.itemsize


def test_ssm_cache_dtype_is_honoured(backend, dtype, tolerance):
    if dtype == torch.float64:
        dtype, tolerance = torch.float32, 2e-5
    ids = tokens(1, 12)
    exact = tiny_model(tiny_config("MM"), dtype=dtype, backend=backend)
    rounded = tiny_model(
        tiny_config("MM", mamba_ssm_cache_dtype="bfloat16"), dtype=dtype, backend=backend
    )
    want, _ = run(exact, ids, range(1, 12))
    got, cache = run(rounded, ids, range(1, 12))
    assert cache.layers[0].ssm.dtype == torch.bfloat16
    assert 1e-4 < relative(got, want) < 0.05
    assert relative(got[:, :1], want[:, :1]) < tolerance  # nothing was read back yet


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "triton"}, "backend 'triton'"),
        ({"dtype": torch.float16}, "float16"),
        ({"compute_dtype": torch.float16}, "compute_dtype"),
        ({"dt_clamp": "off"}, "dt_clamp"),
    ],
)
def test_refused_options(options, message, backend, dtype, tolerance):
    with pytest.raises(ValueError, match=message):
        Model(tiny_config("-"), **({"backend": backend} | options))

# SPDX-License-Identifier: Apache-2.0
"""The model against transformers' NemotronHForCausalLM on random models, from files it saved.

transformers raises dt to time_step_min over a prompt but not in a single-token step, so the models
here run with dt_clamp="transformers".
"""

import logging
import warnings

import pytest
import torch
import torch.nn.functional as F

from tiny import BACKENDS, SIZES, randomize, relative, tokens
from warpweave import Model
from warpweave.testing import assert_all_caught

pytestmark = pytest.mark.usefixtures("one_thread")

transformers = pytest.importorskip("transformers", reason="parity needs transformers")

BOUND = 1e-4  # the published bound; both sides run in fp32 and differ by about 5e-7
FAMILIES = {
    "dense": {"hybrid_override_pattern": "M-M*-MM-*-"},
    "moe": {"hybrid_override_pattern": "MEM*EMEM*E", "moe_latent_size": None},
    "latent": {"hybrid_override_pattern": "MEM*EMEM*E"},
    "variants": {
        "hybrid_override_pattern": "ME*-",
        "mlp_bias": True,
        "use_bias": True,
        "use_conv_bias": False,
        "n_group": 4,
        "topk_group": 2,
        "norm_topk_prob": False,
        "n_groups": 3,
    },
}
LAYOUTS = ("backbone", "stacked", "released")


@pytest.fixture(scope="module", params=FAMILIES)
def theirs(request, tmp_path_factory):
    """A random model of transformers, and the directory of each layout it is stored in."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build(FAMILIES[request.param], tmp_path_factory.mktemp(request.param))


def build(changes, root):
    torch.manual_seed(0)
    config = transformers.NemotronHConfig(**(SIZES | changes), eos_token_id=None)
    model = transformers.NemotronHForCausalLM(config).eval().requires_grad_(False)
    randomize(model)
    model.save_pretrained(root / "backbone")
    model.save_pretrained(root / "stacked", save_original_format=False)
    ours = Model.from_pretrained(root / "backbone", backend="reference")
    ours.save_pretrained(root / "released", max_shard_bytes=50_000)
    return model, root


def load(root, layout, backend="reference"):
    path = root / layout
    return Model.from_pretrained(
        path, backend=backend, dtype=torch.float32, dt_clamp="transformers"
    ).requires_grad_(False)


@torch.no_grad()
def their_logits(model, ids, split):
    """A prompt of `split` tokens, then one token after the other through the cache."""
    out = model(ids[:, :split], use_cache=True)
    logits, cache = [out.logits], out.past_key_values
    for t in range(split, ids.shape[1]):
        out = model(ids[:, t : t + 1], past_key_values=cache, use_cache=True)
        logits.append(out.logits)
    return torch.cat(logits, 1)


@torch.no_grad()
def our_logits(model, ids, split):
    cache = model.new_cache(ids.shape[0])
    logits = [model(ids[:, :split], cache=cache)]
    for t in range(split, ids.shape[1]):
        logits.append(model(ids[:, t : t + 1], cache=cache))
    return torch.cat(logits, 1)


@pytest.mark.parametrize("backend", [name for name, *_ in BACKENDS])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits(theirs, layout, backend):
    model, root = theirs
    ids = tokens(2, 41)
    want = their_logits(model, ids, 33)  # the prompt is no multiple of the chunk
    assert 0.3 < want.std() < 10
    assert relative(our_logits(load(root, layout, backend), ids, 33), want) < BOUND


@pytest.mark.parametrize("backend", [name for name, *_ in BACKENDS])
def test_64_greedy_tokens(theirs, backend):
    model, root = theirs
    ids = tokens(2, 7, seed=3)
    want = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=64,
        min_new_tokens=64,
    )
    got = load(root, "released", backend).generate(ids, max_new_tokens=64, eos_token_ids=[])
    assert got.shape == (2, 71)
    assert torch.equal(got, want)


def test_transformers_reads_what_we_write(theirs):
    model, root = theirs
    again = transformers.NemotronHForCausalLM.from_pretrained(root / "released")
    mine, expected = again.state_dict(), model.state_dict()
    assert mine.keys() == expected.keys()
    for name in expected:
        assert torch.equal(mine[name], expected[name]), name
    drop = {"_name_or_path", "dtype", "architectures", "transformers_version"}
    mine, expected = again.config.to_dict(), model.config.to_dict()
    assert {k: v for k, v in mine.items() if k not in drop} == {
        k: v for k, v in expected.items() if k not in drop
    }


def test_dt_clamp_is_what_separates_the_two(tmp_path):
    torch.manual_seed(0)
    config = transformers.NemotronHConfig(
        **(SIZES | FAMILIES["dense"]), time_step_min=0.5, time_step_max=1.0
    )
    model = transformers.NemotronHForCausalLM(config).eval().requires_grad_(False)
    randomize(model)
    model.save_pretrained(tmp_path)
    ids = tokens(1, 20)
    want = their_logits(model, ids, 12)
    ours = Model.from_pretrained(tmp_path, backend="reference")
    assert relative(our_logits(ours, ids, 12), want) > BOUND
    ours = Model.from_pretrained(tmp_path, backend="reference", dt_clamp="transformers")
    assert relative(our_logits(ours, ids, 12), want) < BOUND


# Planted faults. Each one changes a freshly loaded model; the check of test_logits must see it.
# All mixers and norms of a model share one table of ops, which most faults replace an entry of.


def table(model):
    return model.norm_f.ops


def mixers(model, letter):
    return [
        b.mixer
        for b, kind in zip(model.layers, model.config.pattern, strict=True)
        if kind == letter
    ]


def wrap(model, name, change):
    """Replace op `name` by change(op)."""
    ops = table(model)
    setattr(ops, name, change(getattr(ops, name)))


def both_scans(model, change):
    """Change x, dt, A, B, C and options of the scan and of the step alike."""

    def scan(op):
        def call(*args, **kwargs):
            args, kwargs = change(args, kwargs)
            return op(*args, **kwargs)

        return call

    def step(op):
        def call(state, *args, **kwargs):
            args, kwargs = change(args, kwargs)
            return op(state, *args, **kwargs)

        return call

    wrap(model, "ssd_scan", scan)
    wrap(model, "ssm_step", step)


def norm_before_gate(model):
    def change(op):
        def call(x, weight, *, gate=None, **kwargs):
            out = op(x, weight, **kwargs)
            return out if gate is None else out * F.silu(gate)

        return call

    wrap(model, "rms_norm", change)


def ungrouped_norm(model):
    def change(op):
        return lambda x, weight, *, group_size=None, **kwargs: op(x, weight, **kwargs)

    wrap(model, "rms_norm", change)


def gate_not_activated(model):
    def change(op):
        def call(x, weight, *, gate=None, **kwargs):
            return op(x if gate is None else x * gate, weight, **kwargs)

        return call

    wrap(model, "rms_norm", change)


def norm_of_the_mixer_alone(model):
    def change(op):
        def call(x, weight, *, residual=None, **kwargs):
            out = op(x, weight, **kwargs)
            return out if residual is None else (out, x + residual)

        return call

    wrap(model, "rms_norm", change)


def larger_epsilon(model):
    wrap(model, "rms_norm", lambda op: lambda *a, eps, **k: op(*a, eps=1e-3, **k))


def in_proj_permuted(order):
    """Rows of in_proj are z, x, B, C, dt; read them as if they were stored in another order."""

    def fault(model):
        for mixer in mixers(model, "M"):
            di, GN = mixer.H * mixer.P, mixer.G * mixer.N
            sizes = {"z": di, "x": di, "B": GN, "C": GN, "t": mixer.H}
            rows = dict(zip("zxBCt", mixer.in_proj.weight.split(list(sizes.values())), strict=True))
            mixer.in_proj.weight = torch.nn.Parameter(
                torch.cat([rows[letter] for letter in order]), requires_grad=False
            )

    return fault


def rope_enabled(model):
    """Rotate queries and keys, as rope_theta in the released files suggests."""

    def rotate(t, start):
        half = t.shape[-1] // 2
        position = torch.arange(start, start + t.shape[-2])[:, None]
        angle = position * 10000.0 ** (-torch.arange(half) / half)
        a, b = t[..., :half], t[..., half:]
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)

    for mixer in mixers(model, "*"):

        def forward(x, seqs, state, mixer=mixer):
            from warpweave.model.model import attend

            q, k, v = (
                p(x).unflatten(-1, (-1, mixer.head_dim)).transpose(1, 2)
                for p in (mixer.q_proj, mixer.k_proj, mixer.v_proj)
            )
            q, k = rotate(q, seqs.past[0]), rotate(k, seqs.past[0])
            state.append(seqs.past, k, v)
            end = seqs.past[0] + q.shape[2]
            y = attend(q, state.k[:, :, :end], state.v[:, :, :end], seqs.past)
            return mixer.o_proj(y.transpose(1, 2).flatten(2))

        mixer.forward = forward


def interleaved_key_heads(model):
    """Query head i reads key head i % kv instead of i // (q / kv)."""
    for mixer in mixers(model, "*"):
        heads = mixer.q_proj.weight.unflatten(0, (-1, 2, mixer.head_dim)).transpose(0, 1)
        mixer.q_proj.weight = torch.nn.Parameter(heads.flatten(0, 2), requires_grad=False)
        outs = mixer.o_proj.weight.unflatten(1, (-1, 2, mixer.head_dim)).transpose(1, 2)
        mixer.o_proj.weight = torch.nn.Parameter(outs.flatten(1, 3), requires_grad=False)


def attention_scale_of_one(model):
    for mixer in mixers(model, "*"):
        mixer.q_proj.weight.mul_(mixer.head_dim**0.5)


def stale_keys(model):
    """Keys and values of decoded tokens land one place too early."""
    from warpweave.model.cache import AttentionState

    class Stale(AttentionState):
        def append(self, past, k, v, row=None):
            super().append([max(0, p - 1) for p in past], k, v, row)

    original = model.new_cache

    def new_cache(batch_size=1, **kwargs):
        cache = original(batch_size, **kwargs)
        for layer in cache.layers:
            if isinstance(layer, AttentionState):
                layer.__class__ = Stale
        return cache

    model.new_cache = new_cache


def routing(change):
    """Change what the router returns: change(x, weight, bias, options, weights, indices)."""

    def fault(model):
        def wrapped(op):
            def call(x, weight, bias, **options):
                return change(x, weight, bias, options, *op(x, weight, bias, **options))

            return call

        wrap(model, "moe_route", wrapped)

    return fault


def bias_used_in_weights(x, weight, bias, options, weights, indices):
    s = torch.sigmoid(x @ weight.T) + bias
    s = s.gather(-1, indices.long())
    s = s / s.sum(-1, keepdim=True) if options["normalize"] else s
    return s * options["scale"], indices


def softmax_instead_of_sigmoid(x, weight, bias, options, weights, indices):
    s = torch.softmax(x @ weight.T, -1).gather(-1, indices.long())
    s = s / s.sum(-1, keepdim=True) if options["normalize"] else s
    return s * options["scale"], indices


def weights_not_scaled(x, weight, bias, options, weights, indices):
    return weights / options["scale"], indices


def route_option(**changed):
    def fault(model):
        for mixer in mixers(model, "E"):
            mixer.gate.options |= changed

    return fault


def correction_bias_ignored(model):
    for mixer in mixers(model, "E"):
        mixer.gate.e_score_correction_bias.zero_()


def shared_expert_scaled(model):
    for mixer in mixers(model, "E"):
        mixer.shared_experts.down_proj.weight.mul_(model.config.routed_scaling_factor)


def shared_expert_dropped(model):
    for mixer in mixers(model, "E"):
        mixer.shared_experts.down_proj.weight.zero_()


def expert_input_not_latent(model):
    for mixer in mixers(model, "E"):
        latent = mixer.fc1_latent_proj.weight
        mixer.fc1_latent_proj.weight = torch.nn.Parameter(torch.eye(*latent.shape), False)


def plain_relu(model):
    """relu(v) instead of relu(v)^2, in dense layers."""
    for mixer in mixers(model, "-"):
        mixer.forward = lambda x, m=mixer: m.down_proj(F.relu(m.up_proj(x)))


def experts_in_wrong_order(model):
    for mixer in mixers(model, "E"):
        mixer.experts.down_proj.copy_(mixer.experts.down_proj.roll(1, 0))


def conv_change(**changed):
    def fault(model):
        for name in ("causal_conv1d", "causal_conv1d_update"):
            wrap(model, name, lambda op: lambda *a, **k: op(*a, **(k | changed)))

    return fault


def conv_taps_reversed(model):
    for mixer in mixers(model, "M"):
        mixer.conv1d.weight.copy_(mixer.conv1d.weight.flip(-1))


def conv_state_forgotten(model):
    def change(op):
        def call(x, state, *args, **kwargs):
            state.zero_()
            return op(x, state, *args, **kwargs)

        return call

    wrap(model, "causal_conv1d_update", change)


def ssm_state_forgotten(model):
    def change(op):
        def call(state, *args, **kwargs):
            state.zero_()
            return op(state, *args, **kwargs)

        return call

    wrap(model, "ssm_step", change)


def scan_option(**changed):
    return lambda model: both_scans(model, lambda args, kwargs: (args, kwargs | changed))


def input_and_output_maps_swapped(model):
    both_scans(model, lambda a, k: ((*a[:3], a[4], a[3]), k))


def decay_not_negative_exp(model):
    both_scans(model, lambda a, k: ((*a[:2], a[2].neg().log().neg().sub(1), *a[3:]), k))


def groups_interleaved(model):
    """Head h reads group h % G instead of h // (H / G)."""

    def change(args, kwargs):
        x, dt, A, B, C = args
        H, G = x.shape[-2], B.shape[-2]
        pick = torch.arange(H) % G
        return (x, dt, A, B[..., pick, :], C[..., pick, :]), kwargs

    both_scans(model, change)


def last_norm_skipped(model):
    model.norm_f.forward = lambda x, residual: (x + residual, None)


MAMBA, MOE, ATTENTION = "dense", "latent", "dense"
FAULTS = {
    "norm before gate": (MAMBA, norm_before_gate),
    "RMS not grouped": (MAMBA, ungrouped_norm),
    "gate without silu": (MAMBA, gate_not_activated),
    "norm without the residual": (MAMBA, norm_of_the_mixer_alone),
    "epsilon 1e-3": (MAMBA, larger_epsilon),
    "z and x swapped": (MAMBA, in_proj_permuted("xzBCt")),
    "B and C rows swapped": (MAMBA, in_proj_permuted("zxCBt")),
    "dt rows first": (MAMBA, in_proj_permuted("tzxBC")),
    "B and C swapped in the scan": (MAMBA, input_and_output_maps_swapped),
    "groups interleaved over heads": (MAMBA, groups_interleaved),
    "A not -exp(A_log)": (MAMBA, decay_not_negative_exp),
    "D dropped": (MAMBA, scan_option(D=None)),
    "dt_bias dropped": (MAMBA, scan_option(dt_bias=None)),
    "dt without softplus": (MAMBA, scan_option(dt_softplus=False)),
    "conv without silu": (MAMBA, conv_change(activation=None)),
    "conv taps reversed": (MAMBA, conv_taps_reversed),
    "conv state forgotten": (MAMBA, conv_state_forgotten),
    "SSM state forgotten": (MAMBA, ssm_state_forgotten),
    "RoPE enabled": (ATTENTION, rope_enabled),
    "key heads interleaved": (ATTENTION, interleaved_key_heads),
    "attention not scaled": (ATTENTION, attention_scale_of_one),
    "keys one place early": (ATTENTION, stale_keys),
    "relu instead of relu squared": ("dense", plain_relu),
    "correction bias in the weights": (MOE, routing(bias_used_in_weights)),
    "softmax router": (MOE, routing(softmax_instead_of_sigmoid)),
    "routed weights not scaled": (MOE, routing(weights_not_scaled)),
    "routed weights not normalised": (MOE, route_option(normalize=False)),
    "one expert less": (MOE, route_option(top_k=2)),
    "correction bias ignored": (MOE, correction_bias_ignored),
    "group limit ignored": ("variants", route_option(n_group=1, topk_group=1)),
    "shared expert scaled": (MOE, shared_expert_scaled),
    "shared expert dropped": (MOE, shared_expert_dropped),
    "expert input not latent": (MOE, expert_input_not_latent),
    "experts in wrong order": (MOE, experts_in_wrong_order),
    "last norm skipped": (MAMBA, last_norm_skipped),
}


@pytest.mark.parametrize("family", sorted({family for family, _ in FAULTS.values()}))
def test_every_planted_fault_is_caught(family, tmp_path):
    ids, split = tokens(2, 24), 17
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want = their_logits(build(FAMILIES[family], tmp_path)[0], ids, split)

    def check(make):
        assert relative(our_logits(make(), ids, split), want) < BOUND

    def planted(change):
        @torch.no_grad()
        def make(right):
            model = right()
            change(model)
            return model

        return lambda right: lambda: make(right)

    faults = {name: planted(change) for name, (f, change) in FAULTS.items() if f == family}
    assert_all_caught(lambda: load(tmp_path, "backbone"), faults, check)

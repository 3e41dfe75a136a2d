# SPDX-License-Identifier: Apache-2.0
"""Planted faults in what the model carries from call to call, which test_model.py must catch."""

import pytest
import torch

import warpweave.model.model as module
from tiny import relative, tiny_model, tokens
from warpweave.model.cache import AttentionState
from warpweave.testing import assert_all_caught

pytestmark = pytest.mark.usefixtures("one_thread")


@torch.no_grad()
def check(make):
    """Chunks, decode, a packed prefill and a ragged batch equal each sequence alone."""
    model = make()
    lengths = (9, 2, 5)
    texts = [tokens(n + 7, seed=n) for n in lengths]
    alone = [tiny_model(dtype=torch.float64, backend="reference")(text[None])[0] for text in texts]

    cache, text = model.new_cache(1), texts[0][None]
    pieces = [model(text[:, a:b], cache=cache) for a, b in ((0, 6), (6, 13), (13, 14), (14, 16))]
    assert relative(torch.cat(pieces, 1)[0], alone[0]) < 1e-10

    cache = model.new_cache(3)
    heads = torch.cat([t[:n] for t, n in zip(texts, lengths, strict=True)])[None]
    got = model(heads, cache=cache, cu_seqlens=torch.tensor([0, 9, 11, 16]))
    want = torch.cat([a[:n] for a, n in zip(alone, lengths, strict=True)])
    assert relative(got[0], want) < 1e-10
    for step in (slice(0, 1), slice(1, 4), slice(4, 5)):
        batch = torch.stack([t[n:][step] for t, n in zip(texts, lengths, strict=True)])
        want = torch.stack([a[n:][step] for a, n in zip(alone, lengths, strict=True)])
        assert relative(model(batch, cache=cache), want) < 1e-10


def ops_fault(name, change):
    """Replace an op in the table of the model by change(op)."""

    def fault(make):
        def made():
            model = make()
            setattr(model.norm_f.ops, name, change(getattr(model.norm_f.ops, name)))
            return model

        return made

    return fault


def without(**options):
    return lambda op: lambda *args, **given: op(*args, **(given | options))


def one_token_short(op):
    """The final state is that before the last token."""

    def call(x, *args, **options):
        out, _ = op(x, *args, **options)
        if options["cu_seqlens"] is not None or x.shape[2] < 2:
            return op(x, *args, **options)
        return out, op(x[:, :, :-1], *args, **options)[1]

    return call


def states_of_the_next_sequence(op):
    def call(*args, **options):
        out, states = op(*args, **options)
        return out, states.roll(1, 0)

    return call


def cache_fault(monkeypatch, name, change):
    def fault(make):
        def made():
            monkeypatch.setattr(AttentionState, name, change(getattr(AttentionState, name)))
            return make()

        return made

    return fault


def growth_forgets(reserve):
    def wrong(self, length):
        capacity = self.k.shape[2]
        reserve(self, length)
        if self.k.shape[2] > capacity:
            self.k[:, :, :capacity] = 0

    return wrong


def overwrites_the_last(append):
    return lambda self, past, *args, **kw: append(self, [max(p - 1, 0) for p in past], *args, **kw)


def first_row_only(append):
    def wrong(self, past, k, v, row=None):
        append(self, past, k, v, 0 if row is not None else None)

    return wrong


def attend_fault(monkeypatch, change):
    right = module.attend

    def fault(make):
        def made():
            monkeypatch.setattr(
                module, "attend", lambda q, k, v, past, scale: right(*change(q, k, v, past), scale)
            )
            return make()

        return made

    return fault


def lengths_stand_still(make):
    def made():
        model = make()
        forward = model.forward

        def wrong(ids, *, cache=None, **options):
            before = list(cache.lengths)
            logits = forward(ids, cache=cache, **options)
            cache.lengths = [max(a, 1) for a in before] if ids.shape[1] == 1 else cache.lengths
            return logits

        model.forward = wrong
        return model

    return made


def test_every_planted_fault_is_caught(monkeypatch):
    def reset(fault):
        """Undo what an earlier fault patched in a class or module."""

        def plant(make):
            monkeypatch.undo()
            return fault(make)

        return plant

    faults = {
        "conv crosses sequences": ops_fault("causal_conv1d", join_sequences),
        "scan crosses sequences": ops_fault("ssd_scan", join_sequences),
        "conv state ignored": ops_fault("causal_conv1d", without(initial_states=None)),
        "SSM state ignored": ops_fault("ssd_scan", without(initial_states=None)),
        "conv state one token short": ops_fault("causal_conv1d", one_token_short),
        "conv states of another row": ops_fault("causal_conv1d", states_of_the_next_sequence),
        "SSM states of another row": ops_fault("ssd_scan", states_of_the_next_sequence),
        "growth forgets keys": cache_fault(monkeypatch, "reserve", growth_forgets),
        "keys overwrite the last": cache_fault(monkeypatch, "append", overwrites_the_last),
        "all rows append to the first": cache_fault(monkeypatch, "append", first_row_only),
        "mask of the first row": attend_fault(
            monkeypatch, lambda q, k, v, past: (q, k, v, [past[0]] * len(past))
        ),
        "mask one token early": attend_fault(
            monkeypatch, lambda q, k, v, past: (q, k, v, [max(p - 1, 0) for p in past])
        ),
        "mask one token late": attend_fault(
            monkeypatch, lambda q, k, v, past: (q, k, v, [p + (p > 0) for p in past])
        ),
        "lengths not advanced": lengths_stand_still,
    }
    try:
        assert_all_caught(
            lambda: tiny_model(dtype=torch.float64, backend="reference"),
            {name: reset(fault) for name, fault in faults.items()},
            check,
        )
    finally:
        monkeypatch.undo()


def join_sequences(op):
    """Compute a packed row as if it were one sequence; the states stay right."""

    def call(*args, **options):
        if options["cu_seqlens"] is None:
            return op(*args, **options)
        joined = options | {"cu_seqlens": None, "initial_states": None}
        return op(*args, **joined)[0], op(*args, **options)[1]

    return call

# SPDX-License-Identifier: Apache-2.0
"""Prefill and decoding of a whole model, against transformers with the very same tensors; and
decoding in NVFP4, against bf16.

Model M, 417 M parameters in bf16, is small enough for any machine and has every kind of layer. A
decoded token moves all active weights and the keys and values once, the Mamba states twice (in and
out). A prefilled one multiplies by the active weights; scan and attention are not counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from importlib.util import find_spec
from itertools import cycle
from typing import Any

import torch

from harness import Case
from warpweave import Config, Model
from warpweave.model.cache import Cache, MambaState
from warpweave.model.quantize import quantize_model

HAVE_THEIRS = find_spec("transformers") is not None
PROMPT = 2048
M = Config(
    "MEMEM*EMEMEM*E", vocab_size=32768, hidden_size=1024, num_attention_heads=16,
    num_key_value_heads=2, head_dim=64, mamba_num_heads=32, n_routed_experts=32,
    num_experts_per_tok=6, moe_intermediate_size=704, moe_shared_expert_intermediate_size=1408,
)  # fmt: skip


@cache
def models() -> tuple[Model, Any]:
    """Ours, and transformers' around our tensors, or None where it is not installed."""
    torch.manual_seed(0)
    ours = Model(M, dtype=torch.bfloat16).eval().requires_grad_(False)
    if not HAVE_THEIRS:
        return ours, None
    from transformers import NemotronHConfig, NemotronHForCausalLM

    values = M.to_dict() | {"time_step_limit": M.time_step_limit}  # as JSON spells infinity
    with torch.device("meta"):
        theirs = NemotronHForCausalLM(NemotronHConfig(**values))
    tensors = {f"model.{name}": t for name, t in ours.state_dict().items()}
    tensors["lm_head.weight"] = tensors.pop("model.lm_head.weight")
    theirs.load_state_dict(tensors, assign=True)
    return ours, theirs.eval().requires_grad_(False)


def prefill(ours: Model, theirs: Any, ids: Any) -> Any:
    past = ours.new_cache(capacity=PROMPT + 256)
    ours(ids, cache=past, logits_to_keep=1)
    return past


def their_prefill(ours: Model, theirs: Any, ids: Any) -> Any:
    return theirs(ids, use_cache=True, logits_to_keep=1).past_key_values


def prefilled() -> tuple[Any, ...]:
    """Both models, what they remember, and random tokens, so that the experts change."""
    args = (*models(), torch.randint(M.vocab_size, (1, PROMPT)))
    tokens = cycle(torch.randint(M.vocab_size, (512, 1, 1)))
    return *models(), prefill(*args), their_prefill(*args) if HAVE_THEIRS else None, tokens


def both_precisions(head: bool) -> tuple[Any, ...]:
    """The model in NVFP4 and in bf16, what each remembers, and random tokens."""
    ours, _ = models()
    narrow = deepcopy(ours)
    quantize_model(narrow, "nvfp4", head=head)
    prompt = torch.randint(M.vocab_size, (1, PROMPT))
    tokens = cycle(torch.randint(M.vocab_size, (512, 1, 1)))
    return narrow, ours, *(prefill(model, None, prompt) for model in (narrow, ours)), tokens


def cases() -> Iterator[Case]:
    versus = "transformers" if HAVE_THEIRS else "transformers is missing"
    head_size = M.vocab_size * M.hidden_size
    active = M.parameters(active=True) - head_size  # a token reads one row of the embedding
    yield Case(
        f"M prefill (1, {PROMPT})", torch.bfloat16,
        lambda: (*models(), torch.randint(M.vocab_size, (1, PROMPT))), prefill,
        versus, their_prefill if HAVE_THEIRS else None,
        flops=2 * (active - head_size) * PROMPT, bound="fma_bf16", tokens=PROMPT,
    )  # fmt: skip
    layers = Cache(M, dtype=torch.bfloat16, capacity=PROMPT).layers
    states = sum(layer.nbytes() * (1 + isinstance(layer, MambaState)) for layer in layers if layer)
    theirs = lambda _, theirs, __, past, ids: theirs(next(ids), past_key_values=past)  # noqa: E731
    yield Case(
        f"M decode (1, 1) after {PROMPT}", torch.bfloat16, prefilled,
        lambda ours, _, past, __, ids: ours(next(ids), cache=past), versus,
        theirs if HAVE_THEIRS else None, bytes=2 * active + states, bound="read", tokens=1,
    )  # fmt: skip
    for head in (False, True):
        bits = 4.5 * (active - head_size) + (4.5 if head else 16) * head_size
        yield Case(
            f"M NVFP4{' with its head' if head else ''} decode (1, 1) after {PROMPT}",
            torch.bfloat16, lambda head=head: both_precisions(head),
            lambda narrow, _, past, __, ids: narrow(next(ids), cache=past), "its bf16 decode",
            lambda _, ours, __, past, ids: ours(next(ids), cache=past),
            bytes=int(bits / 8) + states, bound="read", tokens=1,
        )  # fmt: skip

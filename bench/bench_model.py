# SPDX-License-Identifier: Apache-2.0
"""Prefill and decoding of a whole model, against transformers with the very same tensors.

Model M, 417 M parameters in bf16, is small enough for any machine and has every kind of layer. A
decoded token moves all active weights and the keys and values once, the Mamba states twice (in and
out). A prefilled one multiplies by the active weights; scan and attention are not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from harness import Case
from warpweave import Config, Model
from warpweave.model.cache import MambaState

try:
    from transformers import NemotronHConfig, NemotronHForCausalLM
except ImportError:
    NemotronHForCausalLM = None

PROMPT = 2048
M = Config(
    "MEMEM*EMEMEM*E", vocab_size=32768, hidden_size=1024, num_attention_heads=16,
    num_key_value_heads=2, head_dim=64, mamba_num_heads=32, n_routed_experts=32,
    num_experts_per_tok=6, moe_intermediate_size=704, moe_shared_expert_intermediate_size=1408,
)  # fmt: skip


def load_theirs(model: Model) -> Any:
    """transformers' model around our tensors; None where it is not installed."""
    if NemotronHForCausalLM is None:
        return None
    values = M.to_dict() | {"time_step_limit": M.time_step_limit}  # as JSON spells infinity
    with torch.device("meta"):
        theirs = NemotronHForCausalLM(NemotronHConfig(**values))
    tensors = {
        name if name.startswith("lm_head.") else f"model.{name}": tensor
        for name, tensor in model.state_dict().items()
    }
    theirs.load_state_dict(tensors, assign=True)
    return theirs.eval().requires_grad_(False)


def decoder(step: Callable[[Tensor], Any]) -> Callable[[], Any]:
    """One step a call, with a new random token each, so that the experts change."""
    tokens = cycle(torch.randint(M.vocab_size, (512, 1, 1)))
    return lambda: step(next(tokens))


def cases() -> Iterator[Case]:
    torch.manual_seed(0)
    model = Model(M, dtype=torch.bfloat16).eval().requires_grad_(False)
    theirs, versus = load_theirs(model), "transformers"
    versus = versus if theirs else "transformers is missing"
    prompt = torch.randint(M.vocab_size, (1, PROMPT))
    head = M.vocab_size * M.hidden_size
    active = M.parameters(active=True) - head  # a token reads one row of the embedding
    prefilled = (
        None if theirs is None else lambda ids: theirs(ids, use_cache=True, logits_to_keep=1)
    )
    yield Case(
        f"M prefill (1, {PROMPT})", torch.bfloat16, lambda: (prompt,),
        lambda ids: model(ids, cache=model.new_cache(), logits_to_keep=1), versus, prefilled,
        flops=2 * (active - head) * PROMPT, bound="fma_bf16", tokens=PROMPT,
    )  # fmt: skip
    with torch.inference_mode():
        cache = model.new_cache(capacity=PROMPT + 256)
        model(prompt, cache=cache)
        past = prefilled(prompt).past_key_values if prefilled else None
    states = sum(s.nbytes() * (1 + isinstance(s, MambaState)) for s in cache.layers if s)
    yield Case(
        f"M decode (1, 1) after {PROMPT}", torch.bfloat16, tuple,
        decoder(lambda ids: model(ids, cache=cache)), versus,
        decoder(lambda ids: theirs(ids, past_key_values=past, use_cache=True)) if theirs else None,
        bytes=2 * active + states, bound="read", tokens=1,
    )  # fmt: skip

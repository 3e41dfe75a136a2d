# SPDX-License-Identifier: Apache-2.0
"""Write the trained demo model as a released-layout checkpoint with its card."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from warpweave.demo import corpus
from warpweave.model import Config, Model

PROMPTS = ("It was a truth", "She had never", "The captain")

CARD = """---
license: apache-2.0
language: en
library_name: warpweave
---
# warpweave demo model

A {params:.2f} M parameter hybrid language model ({active:.2f} M active per token) in the layout of
the released Nemotron checkpoints, trained on a CPU by `warpweave` itself. It exists to show and
test the whole path from checkpoint to text; it writes the English of nineteenth-century novels
and knows nothing else.

| | |
|---|---|
| layers | `{pattern}` (M Mamba-2, * attention, - dense relu^2 MLP, E LatentMoE) |
| hidden | {hidden_size} |
| Mamba-2 | {mamba_num_heads} heads x {mamba_head_dim}, state {ssm_state_size}, {n_groups} groups |
| attention | {num_attention_heads} query, {num_key_value_heads} key heads x {head_dim} |
| LatentMoE | top {num_experts_per_tok} of {n_routed_experts} experts, latent {moe_latent_size} |
| tokenizer | byte-level BPE, {vocab_size} tokens, learned from the training text |
| weights | bf16; A_log, D, dt_bias and the routers' correction biases fp32 |

## Data
Nine books in the public domain, from three Debian packages ({packages}):
{books}.
Lines are joined to paragraphs. The last 2.5 % of each book is held out: {train_bytes:,} bytes
({train_tokens:,} tokens) to train on, {test_bytes:,} bytes to test on. The text is not part of the
repository.

## Training
| | |
|---|---|
| optimizer | AdamW, betas 0.9 and 0.95, weight decay {weight_decay} on matrices, clip {clip} |
| learning rate | {lr}, {warmup} steps warm-up, cosine to {final_lr} over the last {decay} |
| batch | {batch} sequences of {length} tokens |
| precision | bf16 activations and products, fp32 weights, scan and router |
| router | biases move by {bias_rate} a step towards balance (arXiv 2408.15664) |
| length | {step} steps, {seen:.1f} M tokens, {epochs:.1f} epochs |
| seed | {seed} |
| time | {hours:.2f} hours on two CPU cores shared with other work |
| **held-out bits per byte** | **{bits_per_byte:.3f}** (shipped weights, windows of 512 tokens) |
| shipped weights | those of step {best_step}, the lowest held-out loss |
| fullest expert | {fullest_expert:.2f} times the mean load |

| step | training loss (nats per token) | held-out bits per byte (fp32) |
|---|---|---|
{log}

## Reproduce
`python -m warpweave.demo.train --out DIR --steps {steps} --decay {decay}` on a machine with apt;
`DIR/model` is this directory. A run that is interrupted continues when the command is given again.
Floating-point sums depend on the machine and its thread count, so a repetition agrees in its
figures, not in every bit.

## Samples
Temperature 0.7, top-p 0.95, seed 1; the prompt is in bold.

{samples}
"""


def sample(model: Model, tokenizer: Tokenizer, prompt: str) -> str:
    """One Markdown paragraph: the prompt and 120 more tokens."""
    ids = torch.tensor([tokenizer.encode(prompt).ids])
    out = model.generate(ids, max_new_tokens=120, temperature=0.7, top_p=0.95, seed=1)
    text = tokenizer.decode(out[0, ids.shape[1] :].tolist())
    return f"> **{prompt}**{text}".replace("\n\n", "\n>\n> ")


def export(path: Path, state: dict[str, Any], tokenizer: Tokenizer) -> None:
    """Write config, bf16 weights, tokenizer, generation defaults and card to the directory `path`.

    state: what `train` returns. The card's figures are measured on the written weights.
    """
    from warpweave.demo.train import bits_per_byte  # train imports this module

    config = Config.from_dict(state["config"])
    model = Model(config, dtype=torch.bfloat16, backend="reference")
    model.load_state_dict(state["best"]["model"])
    model.save_pretrained(path)
    tokenizer.save(str(path / "tokenizer.json"))
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    for name, values in (
        ("tokenizer_config", names | {"tokenizer_class": "PreTrainedTokenizerFast"}),
        ("generation_config", ids | {"do_sample": True, "temperature": 0.7, "top_p": 0.95}),
    ):
        (path / f"{name}.json").write_text(json.dumps(values, indent=2) + "\n")

    held_out = corpus.split(corpus.fetch(path.parent / "corpus"))[1]
    recipe = state["recipe"]
    seen = state["step"] * recipe["batch"] * recipe["length"]
    rows = [(e["step"], e["loss"], e["bits_per_byte"]) for e in state["log"]]
    figures = {
        "params": config.parameters() / 1e6,
        "active": config.parameters(active=True) / 1e6,
        "pattern": config.pattern,
        "packages": ", ".join(f"`{p}`" for p in dict.fromkeys(b.package for b in corpus.BOOKS)),
        "books": ", ".join(b.title for b in corpus.BOOKS),
        "seen": seen / 1e6,
        "epochs": seen / state["train_tokens"],
        "hours": state["seconds"] / 3600,
        "best_step": state["best"]["step"],
        "fullest_expert": state["best"]["fullest_expert"],
        "bits_per_byte": bits_per_byte(model, tokenizer, held_out),
        "log": "\n".join(
            f"| {s} | {a:.3f} | {b:.3f} |" for s, a, b in rows[:: max(1, len(rows) // 10)]
        ),
        "samples": "\n\n".join(sample(model, tokenizer, prompt) for prompt in PROMPTS),
    }
    (path / "README.md").write_text(CARD.format(**(state | state["config"] | recipe | figures)))

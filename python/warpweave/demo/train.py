# SPDX-License-Identifier: Apache-2.0
"""Reproduce the demo model from its corpus: `python -m warpweave.demo.train --out DIR`.

DIR receives the corpus packages, the resumable training state (`state.pt`, with the latest and
the best weights) and `model/`, a released-layout checkpoint with its tokenizer and card. Running
the command again continues where the last run stopped.
"""

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

from warpweave.demo import corpus
from warpweave.model import Config, Model
from warpweave.model.model import Router

CONFIG: dict[str, Any] = dict(
    hybrid_override_pattern="M-M*EM-*E",
    vocab_size=3072, hidden_size=256, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
    intermediate_size=768, mamba_num_heads=8, mamba_head_dim=64, ssm_state_size=64, n_groups=2,
    chunk_size=64, n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=256,
    moe_shared_expert_intermediate_size=256, moe_latent_size=128, routed_scaling_factor=2.5,
    max_position_embeddings=4096, initializer_range=0.04,
)  # fmt: skip
SPECIAL = ["<pad>", "<s>", "</s>"]  # the config's default pad, bos and eos ids 0, 1, 2


@dataclass
class Recipe:
    """What decides the result beside the configuration and the corpus."""

    seed: int = 1
    steps: int = 4000
    batch: int = 16  # sequences
    length: int = 256  # tokens each
    lr: float = 3e-3
    final_lr: float = 1e-4
    warmup: int = 100  # steps
    weight_decay: float = 0.1  # of matrices
    clip: float = 1.0
    bias_rate: float = 1e-3  # router bias update (arXiv 2408.15664)


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Byte-level byte pair encoding, learned from the training text only."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"], special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str]) -> Tensor:
    """All texts as one stream of ids, each between <s> and </s>."""
    return torch.tensor([i for t in texts for i in [1, *tokenizer.encode(t).ids, 2]])


def batch_at(tokens: Tensor, step: int, r: Recipe) -> Tensor:
    """The (batch, length+1) ids of one step, a function of the seed and the step alone.

    Every epoch cuts the stream at another phase and shuffles the pieces.
    """
    per_epoch = (len(tokens) - 1 - r.length) // (r.length * r.batch)
    epoch, i = divmod(step, per_epoch)
    g = torch.Generator().manual_seed(r.seed * 100_003 + epoch)
    phase = int(torch.randint(r.length, (1,), generator=g))
    order = torch.randperm(per_epoch * r.batch, generator=g)
    starts = order[i * r.batch : (i + 1) * r.batch] * r.length + phase
    return tokens[starts[:, None] + torch.arange(r.length + 1)]


def count_tokens(model: Model) -> dict[Router, Tensor]:
    """Tokens per expert of every router's latest forward, kept up to date by hooks."""
    counts: dict[Router, Tensor] = {}

    def count(router: Router, _: Any, output: tuple[Tensor, Tensor]) -> None:
        counts[router] = torch.bincount(output[1].flatten(), minlength=len(router.weight))

    for module in model.modules():
        if isinstance(module, Router):
            module.register_forward_hook(count)
    return counts


def balance(counts: dict[Router, Tensor], rate: float) -> None:
    """Move each router's bias towards the experts with fewer tokens than the mean."""
    for router, tokens in counts.items():
        load = tokens.float()
        router.e_score_correction_bias += rate * torch.sign(load.mean() - load)


def learning_rate(step: int, r: Recipe) -> float:
    """Linear warm-up, then a cosine down to final_lr."""
    if step < r.warmup:
        return r.lr * (step + 1) / r.warmup
    done = (step - r.warmup) / max(1, r.steps - r.warmup)
    return r.final_lr + 0.5 * (r.lr - r.final_lr) * (1 + math.cos(math.pi * done))


def bits_per_byte(model: Model, tokenizer: Tokenizer, texts: list[str], window: int = 512) -> float:
    """Loss over every token of `texts`, read in windows without overlap, per byte of text."""
    nats = 0.0
    model.requires_grad_(False)  # the quadratic scan runs where gradients are enabled, see Model
    for text in texts:
        for piece in encode(tokenizer, [text]).split(window):
            piece = torch.cat([torch.tensor([1]), piece]) if piece[0] != 1 else piece
            logits = model(piece[None, :-1])
            nats += float(F.cross_entropy(logits[0], piece[1:], reduction="sum"))
    model.requires_grad_(True)
    return nats / math.log(2) / sum(len(t.encode()) for t in texts)


def optimizer_for(model: Model, r: Recipe) -> torch.optim.Optimizer:
    matrices = [p for name, p in model.named_parameters() if p.dim() > 1 and "conv1d" not in name]
    ids = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in ids]
    groups = [{"params": matrices, "weight_decay": r.weight_decay},
              {"params": rest, "weight_decay": 0.0}]  # fmt: skip
    return torch.optim.AdamW(groups, lr=r.lr, betas=(0.9, 0.95), fused=True)


def save_state(path: Path, state: dict[str, Any]) -> None:
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def train(out: Path, r: Recipe, every: int) -> dict[str, Any]:
    """Train, or continue, up to r.steps; the state dict that `state.pt` holds at the end."""
    texts, held_out = corpus.split(corpus.fetch(out / "corpus"))
    tokenizer = train_tokenizer(texts)
    tokenizer.save(str(out / "tokenizer.json"))
    tokens = encode(tokenizer, texts)
    torch.manual_seed(r.seed)
    model = Model(Config.from_dict(CONFIG), backend="reference")
    optimizer = optimizer_for(model, r)
    counts = count_tokens(model)
    state: dict[str, Any] = {"step": 0, "seconds": 0.0, "log": []}
    if (out / "state.pt").exists():
        state = torch.load(out / "state.pt")
        if state["recipe"] != asdict(r) or state["config"] != CONFIG:
            raise ValueError(f"{out / 'state.pt'} was written with another recipe: {state['recipe']}")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    losses: list[float] = []
    began, base = time.perf_counter(), state["seconds"]
    for step in range(state["step"], r.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, r)
        ids = batch_at(tokens, step, r)
        # fp32 weights and residuals; bf16 in the matrix products alone.
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(ids[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), r.clip)
        optimizer.step()
        optimizer.zero_grad()
        balance(counts, r.bias_rate)
        losses.append(loss.item())
        if (step + 1) % every == 0 or step + 1 == r.steps:
            entry = {
                "step": step + 1,
                "loss": sum(losses) / len(losses),
                "bits_per_byte": bits_per_byte(model, tokenizer, held_out),
                "grad_norm": float(norm),
                "fullest_expert": max(float(c.max() / c.float().mean()) for c in counts.values()),
                "tokens_per_second": (step + 1 - state["step"]) * r.batch * r.length
                / (time.perf_counter() - began) if step + 1 > state["step"] else 0.0,
            }  # fmt: skip
            losses.clear()
            print(json.dumps(entry), flush=True)
            state["log"].append(entry)
            seconds = base + time.perf_counter() - began
            save_state(out / "state.pt", state | {
                "step": step + 1, "seconds": seconds, "recipe": asdict(r), "config": CONFIG,
                "model": model.state_dict(), "optimizer": optimizer.state_dict(),
            })  # fmt: skip
    return torch.load(out / "state.pt")  # type: ignore[no-any-return]

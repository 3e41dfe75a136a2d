# SPDX-License-Identifier: Apache-2.0
"""Reproduce the demo model from its corpus: `python -m warpweave.demo.train --out DIR`.

DIR receives the corpus packages, the training state (`state.pt`) and `model/`, a checkpoint in the
released layout with its tokenizer and card. Running the command again continues where it stopped.
"""

import argparse
import json
import math
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

from warpweave.demo import corpus
from warpweave.demo.export import export
from warpweave.model import Config, Model
from warpweave.model.model import Mamba2Mixer, Router

CONFIG: dict[str, Any] = {
    "hybrid_override_pattern": "M-M*EM-*E", "vocab_size": 3072, "hidden_size": 256,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "intermediate_size": 768,
    "mamba_num_heads": 8, "mamba_head_dim": 64, "ssm_state_size": 64, "n_groups": 2,
    "chunk_size": 64, "n_routed_experts": 8, "num_experts_per_tok": 2,
    "moe_intermediate_size": 256, "moe_shared_expert_intermediate_size": 256,
    "moe_latent_size": 128, "routed_scaling_factor": 2.5, "initializer_range": 0.04,
}  # fmt: skip
SPECIAL = ["<pad>", "<s>", "</s>"]  # the config's default pad, bos and eos ids 0, 1, 2


@dataclass
class Recipe:
    """What decides the result beside the configuration and the corpus."""

    seed: int = 1
    steps: int = 2000
    batch: int = 8  # sequences
    length: int = 512  # tokens each
    lr: float = 2e-3
    final_lr: float = 5e-5
    warmup: int = 100  # steps
    decay: int = 900  # steps
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


def prepare_ops(model: Model) -> None:
    """Keep autocast out of the scan, whose states and decays are fp32 everywhere, and the compiler
    out of the experts, whose sizes change with every batch."""
    ops = next(m.ops for m in model.modules() if isinstance(m, Mamba2Mixer))  # one for all layers
    ops.ssd_scan = torch.autocast("cpu", enabled=False)(ops.ssd_scan)
    ops.latent_moe = torch.compiler.disable(ops.latent_moe)  # type: ignore[no-untyped-call]


def balance(counts: dict[Router, Tensor], rate: float) -> None:
    """Move each router's bias towards the experts with fewer tokens than the mean."""
    for router, tokens in counts.items():
        load = tokens.float()
        router.e_score_correction_bias += rate * torch.sign(load.mean() - load)


def learning_rate(step: int, r: Recipe) -> float:
    """Linear warm-up, constant, and a cosine to final_lr over the last `decay` steps.

    The constant part may be prolonged after the fact, which a cosine over the whole run may not.
    """
    down = max(0.0, (step - (r.steps - r.decay)) / r.decay)
    high = r.lr * min(1.0, (step + 1) / r.warmup)
    return r.final_lr + 0.5 * (high - r.final_lr) * (1 + math.cos(math.pi * down))


def resume(path: Path, fresh: dict[str, Any]) -> dict[str, Any]:
    """The saved state, if its recipe is the fresh one's, or if the two only differ in an end that
    neither has come near: before both begin to decay, every step is the same."""
    state: dict[str, Any] = torch.load(path)
    old, new = state["recipe"], fresh["recipe"]
    undecided = state["step"] <= min(r["steps"] - r["decay"] for r in (old, new))
    end = {"steps": new["steps"], "decay": new["decay"]} if undecided else {}
    if old | end != new or state["config"] != fresh["config"]:
        raise ValueError(f"{path} at step {state['step']} has another recipe: {old}")
    return state | {"recipe": new}


def bits_per_byte(model: Model, tokenizer: Tokenizer, texts: list[str], window: int = 512) -> float:
    """Loss over every token of `texts`, read in windows without overlap, per byte of text."""
    nats = 0.0
    model.requires_grad_(False)  # the fast scan runs while gradients are enabled; this needs none
    for ids in (encode(tokenizer, [text]) for text in texts):
        for lo in range(0, len(ids) - 1, window):
            piece = ids[lo : lo + window + 1]
            logits = model(piece[None, :-1])[0]
            nats += float(F.cross_entropy(logits, piece[1:], reduction="sum"))
    model.requires_grad_(True)
    return nats / math.log(2) / sum(len(t.encode()) for t in texts)


def optimizer_for(model: Model, r: Recipe) -> torch.optim.Optimizer:
    matrices = [p for name, p in model.named_parameters() if p.dim() > 1 and "conv1d" not in name]
    ids = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in ids]
    groups = [{"params": matrices, "weight_decay": r.weight_decay},
              {"params": rest, "weight_decay": 0.0}]  # fmt: skip
    return torch.optim.AdamW(groups, lr=r.lr, betas=(0.9, 0.95), fused=True)


def train(out: Path, r: Recipe, every: int, eager: bool) -> tuple[dict[str, Any], Tokenizer]:
    """Train, or continue, up to r.steps; the state as in `state.pt`, with the best weights."""
    (out / "corpus").mkdir(parents=True, exist_ok=True)
    texts, held_out = corpus.split(corpus.fetch(out / "corpus"))
    tokenizer = train_tokenizer(texts)
    tokens = encode(tokenizer, texts)
    torch.manual_seed(r.seed)
    model = Model(Config.from_dict(CONFIG), backend="reference")
    optimizer = optimizer_for(model, r)
    counts = count_tokens(model)
    prepare_ops(model)
    forward = model if eager else torch.compile(model)
    state: dict[str, Any] = {
        "recipe": asdict(r), "config": CONFIG, "step": 0, "seconds": 0.0, "log": [],
        "train_tokens": len(tokens), "train_bytes": sum(len(t.encode()) for t in texts),
        "test_bytes": sum(len(t.encode()) for t in held_out), "best": {"bits_per_byte": math.inf},
    }  # fmt: skip
    if (out / "state.pt").exists():
        state = resume(out / "state.pt", state)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    losses: list[float] = []
    began = time.perf_counter()
    for step in range(state["step"], r.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, r)
        ids = batch_at(tokens, step, r)
        # bf16 activations and products on fp32 weights
        with torch.autocast("cpu", torch.bfloat16):
            logits = forward(ids[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(model.parameters(), r.clip)
        optimizer.step()
        optimizer.zero_grad()
        balance(counts, r.bias_rate)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"the loss of step {step + 1} is {losses[-1]}")
        if (step + 1) % every and step + 1 not in (r.steps, r.steps - r.decay):
            continue
        state["seconds"] += time.perf_counter() - began
        entry = {
            "step": step + 1,
            "loss": sum(losses) / len(losses),
            "bits_per_byte": bits_per_byte(model, tokenizer, held_out),
            "grad_norm": float(norm),
            "fullest_expert": max(float(c.max() / c.float().mean()) for c in counts.values()),
            "hours": state["seconds"] / 3600,
        }
        print(json.dumps(entry), flush=True)
        state["log"].append(entry)
        state |= {
            "step": step + 1,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        if entry["bits_per_byte"] < state["best"]["bits_per_byte"]:
            weights = {name: t.clone() for name, t in model.state_dict().items()}
            state["best"] = entry | {"model": weights}
        torch.save(state, out / "state.tmp")
        (out / "state.tmp").replace(out / "state.pt")
        if step + 1 == r.steps - r.decay:  # from here a longer run can start
            shutil.copy(out / "state.pt", out / "before_decay.pt")
        losses.clear()
        began = time.perf_counter()
    return state, tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Train the demo model, or continue, and export it."
    )
    parser.add_argument("--out", type=Path, required=True, help="state and result directory")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--decay", type=int, default=Recipe.decay, help="how many of them decay")
    parser.add_argument("--every", type=int, default=200, help="steps between checkpoints")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--eager", action="store_true", help="no torch.compile: half the speed, needs no compiler"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe = Recipe(steps=args.steps, decay=args.decay)
    state, tokenizer = train(args.out, recipe, args.every, args.eager)
    export(args.out / "model", state, tokenizer)


if __name__ == "__main__":
    main()

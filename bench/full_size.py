# SPDX-License-Identifier: Apache-2.0
"""The released Nemotron 3 Nano 30B-A3B shape in NVFP4 on a small machine.

    python bench/full_size.py create DIR        random weights in the layout of the published NVFP4
                                                 sibling, 18 GB, streamed, the same for a seed
    python bench/full_size.py run DIR           loads it, generates, and says what that took

Experts, shared experts and the head are W4A16_NVFP4, Mamba's projections FP8, the rest bf16. Codes
are uniform, so that nothing has to be quantised; scales give every projection unit gain, so that
activations stay finite and routing is spread.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator, Philox

import harness
from warpweave import Config, Model
from warpweave.model import tensorfile
from warpweave.model.cache import Cache, MambaState
from warpweave.model.checkpoint import INDEX, released_tensors, write_json
from warpweave.model.generate import Sampler, Stats, generate_tokens
from warpweave.model.quantization import QUANT_CONFIG, quant_configs
from warpweave.quantized import E2M1_VALUES

NANO = Config(
    "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME", vocab_size=131072, hidden_size=2688,
    num_attention_heads=32, num_key_value_heads=2, head_dim=128, mamba_num_heads=64,
    mamba_head_dim=64, ssm_state_size=128, n_groups=8, chunk_size=128, n_routed_experts=128,
    num_experts_per_tok=6, moe_intermediate_size=1856, moe_shared_expert_intermediate_size=3712,
    routed_scaling_factor=2.5,
)  # fmt: skip
NVFP4, FP8 = "W4A16_NVFP4", "FP8"
RECIPE = (
    (r".*\.(experts\.\d+|shared_experts)\.(up|down)_proj|lm_head", NVFP4),
    (r".*\.(in|out)_proj", FP8),
)
BACK = re.compile(r".*(out_proj|o_proj|down_proj)\.weight")  # to the residual stream
PIECE = 1 << 24  # elements drawn at a time


def algorithm(name: str) -> str | None:
    layer = name.removesuffix(".weight")
    return next((a for form, a in RECIPE if re.fullmatch(form, layer)), None)


def deviation(name: str, shape: tuple[int, ...]) -> float:
    """Of weights: a projection of normalised inputs has unit variance, of relu² of them 1.5."""
    gain = 1.5 if name.endswith("down_proj.weight") else 1.0
    back = NANO.num_hidden_layers if BACK.fullmatch(name) else 1
    return 1.0 if "embeddings" in name else (gain * back * shape[-1]) ** -0.5


def parts(name: str, shape: tuple[int, ...]) -> list[tuple[str, tuple[int, ...], torch.dtype]]:
    """What is stored for a tensor of the model."""
    layer, kind = name.removesuffix(".weight"), algorithm(name)
    if kind == NVFP4:
        N, K = shape
        return [
            (name, (N, K // 2), torch.uint8),
            (f"{layer}.weight_scale", (N, K // 16), torch.float8_e4m3fn),
            (f"{layer}.weight_scale_2", (), torch.float32),
        ]
    if kind == FP8:
        scales = [(f"{layer}.{s}", (), torch.float32) for s in ("weight_scale", "input_scale")]
        return [(name, shape, torch.float8_e4m3fn), *scales]
    fp32 = name.endswith(("A_log", ".D", "dt_bias", "e_score_correction_bias"))
    return [(name, shape, torch.float32 if fp32 else torch.bfloat16)]


def values(name: str, shape: tuple[int, ...], rng: Generator) -> Iterator[np.ndarray]:
    """The bytes of parts(), in pieces."""
    std, count, kind = deviation(name, shape), math.prod(shape), algorithm(name)
    if kind == NVFP4:
        scales = np.arange(0x34, 0x3C, dtype=np.uint8)  # 0.75 to 1.375
        decoded = torch.from_numpy(scales).view(torch.float8_e4m3fn).float()
        rms = math.sqrt(np.square(E2M1_VALUES).mean() * float(decoded.square().mean()))
        for i in range(0, count // 2, PIECE):
            yield np.frombuffer(rng.bytes(min(PIECE, count // 2 - i)), np.uint8)
        yield scales[rng.integers(0, len(scales), count // 16)]
        yield np.float32([std / rms])
    elif kind == FP8:
        for i in range(0, count, PIECE):
            draw = torch.from_numpy(rng.standard_normal(min(PIECE, count - i), np.float32))
            yield (draw * 16).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
        yield np.float32([std / 16, 1 / 16])
    elif name.endswith(("norm.weight", "norm_f.weight")):
        yield torch.ones(count, dtype=torch.bfloat16).view(torch.uint16).numpy()
    elif name.endswith("A_log"):
        yield np.log(rng.uniform(1, 16, count)).astype(np.float32)
    elif name.endswith("dt_bias"):
        dt = np.exp(rng.uniform(math.log(1e-3), math.log(0.1), count))
        yield (dt + np.log(-np.expm1(-dt))).astype(np.float32)
    elif name.endswith(".D"):
        yield np.ones(count, np.float32)
    elif name.endswith("e_score_correction_bias"):
        yield np.zeros(count, np.float32)
    else:
        for i in range(0, count, PIECE):
            draw = torch.from_numpy(rng.standard_normal(min(PIECE, count - i), np.float32))
            yield (draw * std).bfloat16().view(torch.uint16).numpy()


def create(path: Path, seed: int) -> None:
    """A file a layer. What another run left behind is written anew."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").unlink(missing_ok=True)  # until all is there, nothing loads
    with torch.device("meta"):
        tensors = [
            (name, tuple(t.shape)) for name, _, t in released_tensors(Model(NANO, device="meta"))
        ]
    files: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    for name, shape in tensors:
        layer = re.match(r"backbone\.(layers\.\d+)\.", name)
        files.setdefault(f"model-{layer[1] if layer else 'root'}.safetensors", []).append(
            (name, shape)
        )
    weight_map, total, start = {}, 0, time.time()
    for number, (file, held) in enumerate(files.items()):
        stored = [part for name, shape in held for part in parts(name, shape)]
        rng = Generator(Philox(key=[seed, number]))
        partial = path / f"{file}.partial"
        with partial.open("wb") as out:
            out.write(tensorfile.header(stored)[0])
            for name, shape in held:
                for piece in values(name, shape, rng):
                    out.write(piece.tobytes())
            total += out.tell()
        partial.replace(path / file)
        weight_map |= {name: file for name, _, _ in stored}
        print(f"\r{total / 1e9:6.1f} GB, {time.time() - start:4.0f} s", end="", flush=True)
    print()
    layers = {n.removesuffix(".weight"): a for n, _ in tensors if (a := algorithm(n))}
    rest = [n.removesuffix(".weight") for n, s in tensors if len(s) == 2 and not algorithm(n)]
    ours, theirs = quant_configs(layers, rest)
    write_json(path / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    write_json(path / QUANT_CONFIG, ours)
    write_json(path / "config.json", NANO.to_dict() | {"quantization_config": theirs})


def active_bytes(path: Path) -> int:
    """What a decoded token reads of the weights: all but the embeddings and the unused experts."""
    total = 0
    for file in sorted(path.glob("*.safetensors")):
        for name, entry in tensorfile.read_header(file).items():
            share = NANO.num_experts_per_tok / NANO.n_routed_experts if ".experts." in name else 1
            total += 0 if "embeddings" in name else int(entry.nbytes * share)
    return total


def bandwidth() -> float:
    """GB/s at which torch reads memory."""
    read, amount = harness.rooflines()["read"]
    return max(amount / harness.per_call(read, [()], 3) for _ in range(5))


def memory() -> tuple[float, float]:
    """GiB: the most this process had resident, of which files that are mapped are a part; and what
    it has of its own now."""
    pages = [int(n) for n in Path("/proc/self/statm").read_text().split()]
    own = (pages[1] - pages[2]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, own / 2**30


def run(path: Path, prompt: int, new: int) -> None:
    start = time.perf_counter()
    model = Model.from_pretrained(path)
    print(f"loaded in {time.perf_counter() - start:.1f} s")
    torch.manual_seed(0)
    ids = torch.randint(NANO.vocab_size, (prompt,))
    states = sum(
        2 * s.nbytes() for s in Cache(NANO, capacity=1).layers if isinstance(s, MambaState)
    )
    needed = (active_bytes(path) + states) / 1e9
    before = bandwidth()
    for turn in ("first", "second"):
        stats = Stats()
        steps = generate_tokens(
            model, [ids], max_new_tokens=new, sampler=Sampler(1.0, 1.0, 1), stats=stats, eos=()
        )
        spread = {token for (token,) in steps}
        print(f"{turn}: prefill of {prompt} tokens {stats.prefill_seconds:.1f} s, "
              f"decoding {stats.decode_rate:.2f} tokens/s, {len(spread)} different")  # fmt: skip
    rate = (before + bandwidth()) / 2
    bound = rate / needed
    most, own = memory()
    print(f"a token moves {needed:.2f} GB; at {rate:.1f} GB/s at most {bound:.2f} tokens/s: "
          f"{100 * stats.decode_rate / bound:.0f}% of that")  # fmt: skip
    print(f"peak memory {most:.1f} GiB with the mapped files, {own:.1f} GiB without")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("create", "run"))
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompt", type=int, default=64, help="tokens")
    parser.add_argument("--new", type=int, default=32, help="tokens")
    options = parser.parse_args()
    if options.action == "create":
        create(options.directory, options.seed)
    else:
        run(options.directory, options.prompt, options.new)


if __name__ == "__main__":
    main()

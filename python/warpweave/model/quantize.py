# SPDX-License-Identifier: Apache-2.0
"""Quantise a checkpoint directory, or a model in memory, to ModelOpt's layout.

A directory is written in a stream: one piece of a matrix is in memory at a time, one file follows
the other, and finished files of an interrupted run are kept. Until all is written there is no
config.json beside them, so nothing loads what is unfinished.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from torch import Tensor

from ..quantized import BLOCK, FP8Tensor, NVFP4Tensor
from . import tensorfile
from .backend import load_backend
from .checkpoint import (
    INDEX,
    CheckpointError,
    Progress,
    publish,
    read_files,
    write_json,
)
from .config import Config, read_json
from .names import layer_name, model_name, plain_name
from .quantization import QUANT_CONFIG, quant_configs, read_metadata
from .tensorfile import Entry
from .weights import Matrices

if TYPE_CHECKING:
    from .backend import Backend
    from .model import Model

# Which algorithm a linear layer gets, by the first expression that matches its name. Routers,
# convolutions, norms and embeddings match none, and the head only where that is asked for.
_LINEAR = r"layers\.\d+\.mixer\..*_proj"
RECIPES: dict[str, tuple[tuple[str, str], ...]] = {
    "nvfp4": ((_LINEAR, "NVFP4"),),
    "nvfp4-w4a16": ((_LINEAR, "W4A16_NVFP4"),),
    "fp8": ((_LINEAR, "FP8"),),
    # As Nemotron 3 Ultra: most bits are in the experts, most errors in the rest.
    "mixed": (
        (r".*\.experts\..*", "NVFP4"),
        (r".*\.(shared_experts\..*|in_proj|out_proj)", "FP8"),
        (r".*\.mixer\.(up|down)_proj", "NVFP4"),
    ),
}
REPORT = "quantization.json"
PLAN = "plan.json"
E4M3_MAX = 448.0
NVFP4_MAX = 6 * 448.0
FOUR_OVER_SIX_MAX = 6 * 256.0  # leaves block scales the room to grow by half
# Without calibration, activations are taken to stay below this: FP8 then has the scale 1, and an
# NVFP4 block of activations keeps its precision down to a largest magnitude of 1/64.
ASSUMED_AMAX = 448.0
_CHUNK = 1 << 19  # elements of a matrix in memory at a time: they stay in the cache
_COPY = 1 << 24  # bytes


def algorithm(recipe: str, layer: str, K: int, head: bool = False) -> str | None:
    """ModelOpt's name for what a recipe does to a layer, as "layers.1.mixer.in_proj"; None for
    nothing, as for NVFP4 where rows are no whole blocks. With `head` lm_head is one of them."""
    if recipe not in RECIPES:
        raise ValueError(f"recipe {recipe!r} is not supported, only {', '.join(RECIPES)}")
    name = next((name for form, name in RECIPES[recipe] if re.fullmatch(form, layer)), None)
    if head and layer == "lm_head":
        name = RECIPES[recipe][0][1]
    return None if name and "NVFP4" in name and K % BLOCK else name


def weight_scale(amax: Tensor, name: str, four_over_six: bool) -> Tensor:
    """The fp32 decode multiplier of matrices with these largest magnitudes; 1 of zeros."""
    top = E4M3_MAX if "FP8" in name else FOUR_OVER_SIX_MAX if four_over_six else NVFP4_MAX
    return torch.where(amax > 0, amax / top, 1.0)


def input_scale(amax: float, name: str) -> float:
    return amax / (E4M3_MAX if "FP8" in name else NVFP4_MAX)


def encode(
    ops: Backend, x: Tensor, scale: Tensor, name: str, four_over_six: bool
) -> NVFP4Tensor | FP8Tensor:
    """x (.., N, K) under a scale () or (..)."""
    if "FP8" in name:
        by_matrix = scale.view(*scale.shape, *[1] * (x.dim() - scale.dim()))
        data = (x.float() / by_matrix).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)
        return FP8Tensor(data, scale)
    quantized: NVFP4Tensor = ops.nvfp4_quantize(x, global_scale=scale, four_over_six=four_over_six)
    return quantized


@torch.no_grad()
def quantize_model(
    model: Model, recipe: str, *, four_over_six: bool = False, head: bool = False
) -> None:
    """Quantise the matrices of a model in place, as `quantize` does without calibration."""
    for path, module in model.named_modules():
        for leaf in module.matrices if isinstance(module, Matrices) else ():
            if leaf in module.quantized():
                continue
            w = getattr(module, leaf)
            name = algorithm(recipe, layer_name(f"{path}.{leaf}"), w.shape[-1], head)
            if name is None:
                continue
            scale = weight_scale(w.abs().amax((-2, -1)).float(), name, four_over_six)
            matrix = encode(model.lm_head.ops, w.detach(), scale, name, four_over_six)
            given = torch.full_like(scale, input_scale(ASSUMED_AMAX, name))
            module.hold(leaf, matrix, None if "W4A16" in name else given)


@dataclass(frozen=True)
class Job:
    """One tensor of the source, or one expert of a stacked one, and the name it gets."""

    entry: Entry
    name: str
    layer: str  # the name without its prefix and ".weight"
    algorithm: str | None

    def outputs(self) -> list[tuple[str, tuple[int, ...], torch.dtype]]:
        shape, stem = self.entry.shape, self.name.removesuffix("weight")
        if self.algorithm is None:
            return [(self.name, shape, self.entry.dtype)]
        outputs: list[tuple[str, tuple[int, ...], torch.dtype]]
        if "FP8" in self.algorithm:
            outputs = [(self.name, shape, torch.float8_e4m3fn),
                       (f"{stem}weight_scale", (), torch.float32)]  # fmt: skip
        else:
            N, K = shape
            outputs = [(self.name, (N, K // 2), torch.uint8),
                       (f"{stem}weight_scale", (N, K // BLOCK), torch.float8_e4m3fn),
                       (f"{stem}weight_scale_2", (), torch.float32)]  # fmt: skip
        if "W4A16" not in self.algorithm:
            outputs.append((f"{stem}input_scale", (), torch.float32))
        return outputs

    def nbytes(self) -> int:
        return sum(torch.Size(s).numel() * d.itemsize for _, s, d in self.outputs())


def plan(path: Path, recipe: str, head: bool = False) -> list[Job]:
    """What is done to every tensor of a checkpoint, layer by layer, experts in order. ValueError
    where it is quantised already."""
    jobs = []
    for entries in read_files(path).values():
        for full_name, entry in entries.items():
            plain = plain_name(full_name)
            prefix = full_name.removesuffix(plain)
            name, expert = model_name(plain)
            if not entry.dtype.is_floating_point or entry.dtype.itemsize == 1:
                raise CheckpointError(path, [f"{full_name} is {entry.dtype}: quantised already"])
            stacked = expert is None and ".experts." in name and len(entry.shape) == 3
            if stacked:
                for e in range(entry.shape[0]):
                    layer = layer_name(name, e)
                    kind = algorithm(recipe, layer, entry.shape[-1])
                    jobs.append(Job(entry.item(e), f"{prefix}{layer}.weight", layer, kind))
                continue
            layer, kind = layer_name(name, expert), None
            if plain.endswith(".weight") and len(entry.shape) == 2:
                kind = algorithm(recipe, layer, entry.shape[-1], head)
            jobs.append(Job(entry, full_name, layer, kind))
    order = lambda job: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", job.name)]  # noqa: E731
    return sorted(jobs, key=order)


def split(jobs: list[Job], max_shard_bytes: int) -> list[list[Job]]:
    """Jobs of the files. Layers are kept whole where they fit, so that the experts of one are at
    equal distances in one file, which a reader can map."""
    shards: list[list[Job]] = [[]]
    size = 0
    layers: dict[str, list[Job]] = {}
    for job in jobs:
        match = re.match(r"layers\.\d+", job.layer)
        layers.setdefault(match[0] if match else job.name, []).append(job)
    for layer in layers.values():
        whole = sum(job.nbytes() for job in layer)
        pieces = [layer] if whole <= max_shard_bytes else [[job] for job in layer]
        for piece in pieces:
            nbytes = sum(job.nbytes() for job in piece)
            if shards[-1] and size + nbytes > max_shard_bytes:
                shards.append([])
                size = 0
            shards[-1] += piece
            size += nbytes
    return shards


def quantize(
    source: str | Path,
    target: str | Path,
    recipe: str,
    *,
    four_over_six: bool = False,
    head: bool = False,
    amax: Mapping[str, float] | None = None,
    max_shard_bytes: int = 5 << 30,
    backend: str = "native",
    progress: Progress | None = None,
    finish: Callable[[Path, list[dict[str, Any]]], None] | None = None,
) -> list[dict[str, Any]]:
    """Write a quantised copy of a checkpoint directory; returns one row for each quantised matrix.

    head: lm_head, too, which released checkpoints leave in bfloat16.
    amax: the largest magnitudes of the inputs of layers, by name without prefix, from `calibrate`;
    layers that are not in it are taken to have inputs up to ASSUMED_AMAX. finish is called with
    the directory before it appears under its name, and the rows. An interrupted run is continued
    if nothing it depends on has changed. Raises ValueError or OSError, and CheckpointError.
    """
    source, target = Path(source), Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists already")
    config = Config.from_pretrained(source)
    if read_metadata(source, config):
        raise ValueError(f"{source} is quantised already")
    jobs = plan(source, recipe, head)
    if not any(job.algorithm for job in jobs):
        raise ValueError(f"recipe {recipe!r} finds nothing to quantise in {source}")
    ops = load_backend(backend)
    shards = split(jobs, max_shard_bytes)
    writer = Writer(ops, four_over_six, dict(amax or {}), progress, jobs)
    staging = target.parent / f".{target.name}.quantizing"
    options = {"recipe": recipe, "four_over_six": four_over_six, "head": head,
               "amax": writer.amax,
               "max_shard_bytes": max_shard_bytes, "files": fingerprint(source)}  # fmt: skip
    with locked(staging, options):
        weight_map: dict[str, str] = {}
        rows: list[dict[str, Any]] = []
        for i, shard in enumerate(shards, 1):
            file = f"model-{i:05}-of-{len(shards):05}.safetensors"
            file = "model.safetensors" if len(shards) == 1 else file
            rows += writer.shard(staging / file, shard)
            weight_map |= {name: file for job in shard for name, _, _ in job.outputs()}
        if len(shards) > 1:
            total = sum(job.nbytes() for job in jobs)
            write_json(
                staging / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map}
            )
        for other in source.iterdir():
            weights = other.name.endswith((".safetensors", ".bin", ".pt"))
            if other.is_file() and not weights and other.name not in ("config.json", INDEX):
                shutil.copy2(other, staging / other.name)
        write_json(staging / REPORT, {"recipe": recipe, "four_over_six": four_over_six,
                                      "matrices": rows})  # fmt: skip
        if finish:
            finish(staging, rows)
        algorithms = {
            job.name.removesuffix(".weight"): job.algorithm for job in jobs if job.algorithm
        }
        rest = [job.name.removesuffix(".weight") for job in jobs
                if job.algorithm is None and len(job.entry.shape) == 2]  # fmt: skip
        theirs, ours = quant_configs(algorithms, rest)
        write_json(staging / QUANT_CONFIG, theirs)
        for log in staging.glob("*.rows"):
            log.unlink()
        (staging / PLAN).unlink()
        values = read_json(source / "config.json") | {"quantization_config": ours}
        write_json(staging / "config.json", values)
        if target.exists():
            target.rmdir()  # empty, or this raises
        publish(staging, target)
    return rows


def fingerprint(path: Path) -> dict[str, list[int]]:
    """Size and time of the files that a result depends on."""
    stats = {f.name: f.stat() for f in path.glob("*.safetensors")}
    return {name: [s.st_size, s.st_mtime_ns] for name, s in sorted(stats.items())}


@contextmanager
def locked(staging: Path, options: dict[str, Any]) -> Iterator[None]:
    """A directory for one process that writes one result; what another one left is removed."""
    staging.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{staging}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"another process writes {staging}") from None
        try:
            kept = json.loads((staging / PLAN).read_text())
        except (OSError, ValueError):
            kept = None
        if kept != json.loads(json.dumps(options)):
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
            write_json(staging / PLAN, options)
        yield
        os.unlink(lock.name)


class Writer:
    """Writes the files of a plan."""

    def __init__(
        self,
        ops: Backend,
        four_over_six: bool,
        amax: dict[str, float],
        progress: Progress | None,
        jobs: list[Job],
    ):
        self.ops, self.four_over_six, self.amax = ops, four_over_six, amax
        self.progress = progress or (lambda done, total: None)
        self.done, self.total = 0, sum(job.entry.nbytes for job in jobs)

    def shard(self, path: Path, jobs: list[Job]) -> list[dict[str, Any]]:
        """Write a file unless it is there; the rows of its quantised matrices."""
        # Wide elements first: everything is aligned, and the parts of a layer's experts follow each
        # other at equal distances.
        outputs = sorted((o for job in jobs for o in job.outputs()), key=lambda o: -o[2].itemsize)
        header, offsets = tensorfile.header(outputs)
        at = {name: offset for (name, _, _), offset in zip(outputs, offsets, strict=True)}
        size = len(header) + sum(job.nbytes() for job in jobs)
        log = path.with_name(f"{path.name}.rows")
        rows: list[dict[str, Any]] = []
        if finished(path, header, size) and log.is_file():
            self.done += sum(job.entry.nbytes for job in jobs)
            self.progress(self.done, self.total)
            rows = read_json(log)["rows"]
            return rows
        part = path.with_name(f"{path.name}.part")
        with part.open("wb") as file:
            file.write(header)
            file.truncate(size)
            for job in jobs:
                if job.algorithm is None:
                    self.copy(file, job, at)
                else:
                    rows.append(self.quantize(file, job, at))
            file.flush()
            os.fsync(file.fileno())
        write_json(log, {"rows": rows})
        os.replace(part, path)
        return rows

    def advance(self, nbytes: int) -> None:
        self.done += nbytes
        self.progress(self.done, self.total)

    def copy(self, file: BinaryIO, job: Job, at: dict[str, int]) -> None:
        entry = job.entry
        file.seek(at[job.name])
        with entry.path.open("rb") as source:
            source.seek(entry.start)
            for lo in range(0, entry.nbytes, _COPY):
                piece = source.read(min(_COPY, entry.nbytes - lo))
                file.write(piece)
                self.advance(len(piece))

    def quantize(self, file: BinaryIO, job: Job, at: dict[str, int]) -> dict[str, Any]:
        """Two passes over a matrix that is larger than a chunk: its scale comes first."""
        assert job.algorithm is not None
        (N, K), stem = job.entry.shape, job.name.removesuffix("weight")
        step = max(1, _CHUNK // max(K, 1))
        chunks = range(0, N, step)
        x = torch.empty(0, K)
        top = torch.zeros(())
        for lo in chunks:
            x = self.read(job.entry, lo, min(lo + step, N))
            most = x.abs().max().float()
            if not most.isfinite():
                row, column = (~x.isfinite()).nonzero()[0].tolist()
                value = float(x[row, column])
                raise ValueError(f"{job.entry.name} in {job.entry.path.name} is {value} at "
                                 f"[{lo + row}, {column}]")  # fmt: skip
            top = torch.maximum(top, most)
        scale = weight_scale(top, job.algorithm, self.four_over_six)
        errors = Errors(K)
        for lo in chunks:
            if len(chunks) > 1:
                x = self.read(job.entry, lo, min(lo + step, N))
            matrix = encode(self.ops, x, scale, job.algorithm, self.four_over_six)
            if isinstance(matrix, NVFP4Tensor):
                self.put(file, at[job.name] + lo * K // 2, matrix.codes)
                self.put(file, at[f"{stem}weight_scale"] + lo * K // BLOCK, matrix.block_scales)
            else:
                self.put(file, at[job.name] + lo * K, matrix.data)
            errors.add(lo, x, matrix.dequantize())
            self.advance(x.nbytes)
        nvfp4 = "NVFP4" in job.algorithm
        self.put(file, at[f"{stem}weight_scale_2" if nvfp4 else f"{stem}weight_scale"], scale)
        if f"{stem}input_scale" in at:
            amax = self.amax.get(job.layer, ASSUMED_AMAX)
            self.put(file, at[f"{stem}input_scale"], torch.tensor(input_scale(amax, job.algorithm)))
        return {"layer": job.layer, "algorithm": job.algorithm, "shape": [N, K], **errors.row()}

    @staticmethod
    def read(entry: Entry, lo: int, hi: int) -> Tensor:
        x = torch.empty(hi - lo, *entry.shape[1:], dtype=entry.dtype)
        tensorfile.read(entry.rows(lo, hi), x)
        return x.float() if x.dtype == torch.float64 else x

    @staticmethod
    def put(file: BinaryIO, offset: int, t: Tensor) -> None:
        file.seek(offset)
        file.write(tensorfile.as_bytes(t.contiguous()))


def finished(path: Path, header: bytes, size: int) -> bool:
    if not path.is_file() or path.stat().st_size != size:
        return False
    with path.open("rb") as file:
        return file.read(len(header)) == header


class Errors:
    """Relative Frobenius error of a matrix, and the block of 16 along K with the largest error."""

    def __init__(self, K: int):
        self.error = self.norm = self.worst = 0.0
        self.block, self.width = [0, 0], BLOCK if K % BLOCK == 0 else K

    def add(self, lo: int, x: Tensor, y: Tensor) -> None:
        x = x.float()
        blocks = torch.unflatten((y - x).square(), -1, (-1, self.width)).sum(-1)
        self.error += float(blocks.sum(dtype=torch.float64))
        self.norm += float(x.square().sum(dtype=torch.float64))
        if blocks.numel() and float(blocks.max()) > self.worst:
            self.worst = float(blocks.max())
            row, column = divmod(int(blocks.argmax()), blocks.shape[-1])
            self.block = [lo + row, column * self.width]

    def row(self) -> dict[str, Any]:
        """The figures of the report; worst_error is the norm of the worst block's error."""
        return {
            "error": (self.error / self.norm) ** 0.5 if self.norm else 0.0,
            "squared_error": self.error,
            "squared_norm": self.norm,
            "worst_block": self.block,
            "worst_error": self.worst**0.5,
        }

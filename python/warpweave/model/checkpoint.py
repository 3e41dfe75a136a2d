# SPDX-License-Identifier: Apache-2.0
"""Checkpoint directories of the released models: reading every layout, writing the released one.

On disk the tensors are under `backbone.` (released files) or `model.` (transformers 5), in
multimodal files nested in `language_model.` or `model.language_model.`, and the experts of a layer
are one matrix each or one stacked tensor. In the model they have no prefix and are stacked.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from . import tensorfile
from .config import Config, read_json
from .tensorfile import Entry

if TYPE_CHECKING:
    from .model import Model

INDEX = "model.safetensors.index.json"
_EXPERT = re.compile(r"(layers\.\d+\.mixer\.experts\.(?:up|down)_proj)")
_STORED_EXPERT = re.compile(r"(layers\.\d+\.mixer\.experts)\.(\d+)\.(up_proj|down_proj)\.weight")
_NESTED = re.compile(r"^(model\.)?language_model\.")
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

Progress = Callable[[int, int], None]
"""Called as (bytes done, bytes in all) while tensors are read."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded; `problems` and the message list everything found."""

    def __init__(self, path: Path, problems: list[str]):
        self.problems = problems
        super().__init__(f"cannot load {path}: " + "\n  ".join(problems))


@dataclass
class Stored:
    """The tensors of a directory by model name, each in one piece or in one piece per expert."""

    pieces: dict[str, dict[int | None, Entry]] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)  # mtp.*, and towers beside language_model.*


def load(
    model_type: type[Model],
    /,
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    **options: Any,
) -> Model:
    """Build the model on the meta device, check every name and shape, then read tensor by tensor.

    Memory peaks at the weights plus a few MB. dtype None is bf16 if the embeddings are stored in
    16 bits, else fp32. Raises CheckpointError before anything is allocated, and ValueError for the
    configuration. Tensors of other networks (mtp.*) go to `model.unused_tensors`, with a warning.
    """
    path = Path(path)
    config = Config.from_pretrained(path)
    if config.quantization_config is not None or (path / "hf_quant_config.json").exists():
        raise CheckpointError(path, ["quantised checkpoints are not supported yet"])
    stored = read_directory(path)
    if dtype is None:
        root = stored.pieces.get("embeddings.weight", {}).get(None)
        narrow = root is not None and root.dtype.itemsize == 2
        dtype = torch.bfloat16 if narrow else torch.float32
    model = model_type(config, dtype=dtype, device="meta", **options)
    if problems := compare(model, stored):
        raise CheckpointError(path, problems)

    total = sum(entry.nbytes for parts in stored.pieces.values() for entry in parts.values())
    done, modules = 0, dict(model.named_modules())
    for name, parts in stored.pieces.items():
        owner, _, leaf = name.rpartition(".")
        meta = getattr(modules[owner], leaf)
        value = torch.empty(meta.shape, dtype=meta.dtype, device=device)
        for expert, entry in parts.items():
            tensorfile.read(entry, value if expert is None else value[expert])
            done += entry.nbytes
            if progress:
                progress(done, total)
        setattr(
            modules[owner], leaf, nn.Parameter(value) if isinstance(meta, nn.Parameter) else value
        )
    model.tie_weights()
    model.unused_tensors = stored.unused
    model.eval()
    if stored.unused:
        kinds = Counter(name.partition(".")[0] for name in stored.unused)
        listed = ", ".join(f"{count} under {kind}." for kind, count in kinds.items())
        warnings.warn(f"tensors of {path} that this model does not run: {listed}", stacklevel=2)
    return model


def read_directory(path: Path) -> Stored:
    """The tensors of `model.safetensors` or of the files its index names, under model names.

    Raises CheckpointError for files that are missing, truncated or contradict the index, and for
    two tensors that claim the same place.
    """
    problems: list[str] = []
    files: dict[str, dict[str, Entry]] = {}
    index: dict[str, str] = {"": "model.safetensors"}
    if (path / INDEX).is_file():
        index = read_json(path / INDEX).get("weight_map", {})
        if not isinstance(index, dict) or not index:
            raise CheckpointError(path, [f"{INDEX} has no weight_map"])
    for file in sorted(set(index.values())):
        if Path(file).name != file or not (path / file).is_file():
            problems.append(f"file {file!r} is missing")
            continue
        try:
            files[file] = tensorfile.read_header(path / file)
        except ValueError as error:
            problems.append(str(error))
    if "" not in index:
        held = {name: file for file, entries in files.items() for name in entries}
        problems += [
            f"{name} is in {held.get(name, 'no file')}, the index says {file}"
            for name, file in index.items()
            if file in files and held.get(name) != file
        ]
        problems += [f"{name} of {held[name]} is not in the index" for name in held.keys() - index]
    if problems:
        raise CheckpointError(path, problems)

    stored = Stored()
    nested = any(_NESTED.match(name) for entries in files.values() for name in entries)
    for entries in files.values():
        for full_name, entry in entries.items():
            name = _NESTED.sub("", full_name)
            other_tower = nested and name == full_name and not name.startswith("lm_head.")
            if other_tower or name.startswith("mtp."):
                stored.unused.append(full_name)
                continue
            name = name.removeprefix("backbone.").removeprefix("model.")
            expert = None
            if match := _STORED_EXPERT.fullmatch(name):
                name, expert = f"{match[1]}.{match[3]}", int(match[2])
            parts = stored.pieces.setdefault(name, {})
            if expert in parts or (parts and (expert is None or None in parts)):
                problems.append(
                    f"{disk_name(name, expert if expert in parts else None)} is stored twice"
                )
            parts[expert] = entry
    if problems:
        raise CheckpointError(path, problems)
    return stored


def compare(model: Model, stored: Stored) -> list[str]:
    """Every difference between the tensors a model needs and those stored, by stored name."""
    problems = []
    needed = {name: t for name, t in model.state_dict().items() if name not in model.tied_names()}
    for name, t in needed.items():
        parts = stored.pieces.get(name, {})
        want: dict[int | None, tuple[int, ...]] = {None: tuple(t.shape)}
        if _EXPERT.fullmatch(name) and None not in parts:
            want = {expert: tuple(t.shape[1:]) for expert in range(t.shape[0])}
        for expert, shape in want.items():
            if expert not in parts:
                problems.append(f"missing {disk_name(name, expert)} {list(shape)}")
            elif parts[expert].shape != shape:
                problems.append(
                    f"{disk_name(name, expert)} has shape {list(parts[expert].shape)}, the config "
                    f"asks for {list(shape)}"
                )
        problems += [f"unexpected {disk_name(name, expert)}" for expert in parts.keys() - want]
    for name, parts in stored.pieces.items():
        for expert, entry in parts.items():
            if name not in needed:
                problems.append(f"unexpected {disk_name(name, expert)} {list(entry.shape)}")
            elif entry.dtype not in _FLOATS:
                problems.append(
                    f"{disk_name(name, expert)} is {entry.dtype}: quantised checkpoints are not "
                    "supported yet"
                )
    return problems


def disk_name(name: str, expert: int | None = None) -> str:
    """The released name of a tensor of the model."""
    if expert is not None:
        stem, _, leaf = name.rpartition(".")
        name = f"{stem}.{expert}.{leaf}.weight"
    return name if name.startswith("lm_head.") else f"backbone.{name}"


def released_tensors(model: Model) -> Iterator[tuple[str, Tensor]]:
    """(released name, tensor) in file order, experts one by one; views, nothing is copied."""
    tied = model.tied_names()
    for name, t in model.state_dict().items():
        if _EXPERT.fullmatch(name):
            yield from ((disk_name(name, e), t[e]) for e in range(t.shape[0]))
        elif name not in tied:
            yield disk_name(name), t


def save(
    model: Model,
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = 5 << 30,
) -> None:
    """Write config.json and the tensors in the released layout, sharded with an index if larger
    than max_shard_bytes.

    dtype casts the weights (A_log, D, dt_bias and the correction biases stay fp32). Everything is
    written beside `path` first. A new directory appears whole or not at all; in an existing one
    every file is replaced atomically and weight files of an earlier checkpoint are removed.
    """
    if max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes must be positive, got {max_shard_bytes}")
    if dtype is not None and dtype not in _FLOATS:
        raise ValueError(f"dtype {dtype} is not supported, only {_FLOATS}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    shards: list[list[tuple[str, Tensor, torch.dtype]]] = [[]]
    size = total = 0
    fp32 = model.fp32_names()
    for name, t in released_tensors(model):
        stored_dtype = t.dtype
        if dtype is not None and name.removeprefix("backbone.") not in fp32:
            stored_dtype = dtype
        nbytes = t.numel() * stored_dtype.itemsize
        if shards[-1] and size + nbytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append((name, t, stored_dtype))
        size, total = size + nbytes, total + nbytes

    staging = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        weight_map: dict[str, str] = {}
        for i, shard in enumerate(shards, 1):
            file = f"model-{i:05}-of-{len(shards):05}.safetensors"
            file = "model.safetensors" if len(shards) == 1 else file
            tensorfile.write(staging / file, shard)
            weight_map |= {name: file for name, _, _ in shard}
        if len(shards) > 1:
            _write_json(
                staging / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map}
            )
        stored_as = str(dtype or model.dtype).removeprefix("torch.")
        _write_json(staging / "config.json", model.config.to_dict() | {"torch_dtype": stored_as})
        _publish(staging, path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _publish(staging: Path, path: Path) -> None:
    if not path.exists():
        staging.chmod(0o755)
        os.replace(staging, path)
        return
    written = sorted(file.name for file in staging.iterdir())
    stale = {file.name for file in path.glob("model*.safetensors")} | {INDEX}
    for name in written:
        os.replace(staging / name, path / name)
    for name in stale - set(written):
        (path / name).unlink(missing_ok=True)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

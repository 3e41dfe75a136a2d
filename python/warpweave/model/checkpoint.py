# SPDX-License-Identifier: Apache-2.0
"""Checkpoint directories of the released models: reading every layout, writing the released one.

On disk the tensors are under `backbone.` (released files) or `model.` (transformers 5), in
multimodal files nested in `language_model.` or `model.language_model.`, and the experts of a layer
are one matrix each or one stacked tensor. In the model they have no prefix and are stacked.
Quantised matrices have the parts that `Matrices` names; each keeps the precision it is stored in.
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
from .checkpoint_quantized import bad_scale, hold_quantized, quantized_layers
from .config import Config, read_json
from .names import EXPERT, disk_name, model_name, where
from .quantization import QUANT_CONFIG, quant_configs, read_metadata
from .tensorfile import Entry, Maps

if TYPE_CHECKING:
    from .model import Model

INDEX = "model.safetensors.index.json"
_RECIPROCAL = "_global_scale"  # the end of names whose values multiply before encoding
_SMALL = 4096  # bytes: what is smaller is read rather than mapped
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
    mmap: bool | None = None,
    **options: Any,
) -> Model:
    """Build the model on the meta device, check every name and shape, then read tensor by tensor.

    Memory peaks at the weights plus a few MB. With `mmap`, on the CPU, tensors that are stored as
    they are used stay in the files, and the page cache is their only memory; None maps quantised
    checkpoints, whose experts lie at equal distances and need no copy to be stacked. dtype None is
    bf16 if the embeddings or norms are stored in 16 bits, else fp32. Raises CheckpointError before
    anything is allocated (for scales that are no numbers after reading), and ValueError for the
    configuration. Tensors of other networks (mtp.*) go to `model.unused_tensors`, with a warning.
    """
    path = Path(path)
    config = Config.from_pretrained(path)
    metadata = read_metadata(path, config)
    stored = read_directory(path)
    if dtype is None:
        roots = [stored.pieces.get(f"{name}.weight", {}) for name in ("embeddings", "norm_f")]
        floats = [e.dtype for r in roots if (e := r.get(None)) and e.dtype in _FLOATS]
        narrow = bool(floats) and floats[0].itemsize == 2
        dtype = torch.bfloat16 if narrow else torch.float32
    model = model_type(config, dtype=dtype, device="meta", **options)
    problems = hold_quantized(model, stored, metadata)
    if problems := problems + compare(model, stored):
        raise CheckpointError(path, problems)
    if model.kv_cache_dtype is None and any(m.kv_cache == "FP8" for m in metadata):
        model.kv_cache_dtype = "fp8"

    mapped = (bool(metadata) if mmap is None else mmap) and torch.device(device).type == "cpu"
    if problems := read_tensors(model, stored, device, Maps() if mapped else None, progress):
        raise CheckpointError(path, problems)
    model.tie_weights()
    model.unused_tensors = stored.unused
    model.eval()
    if stored.unused:
        kinds = Counter(name.partition(".")[0] for name in stored.unused)
        listed = ", ".join(f"{count} under {kind}." for kind, count in kinds.items())
        warnings.warn(f"tensors of {path} that this model does not run: {listed}", stacklevel=2)
    return model


def read_tensors(
    model: Model,
    stored: Stored,
    device: torch.device | str,
    maps: Maps | None,
    progress: Progress | None,
) -> list[str]:
    """Give every meta tensor of the model its values, or a view of them. Returns what is wrong with
    the scales."""
    total = sum(entry.nbytes for parts in stored.pieces.values() for entry in parts.values())
    done, modules = 0, dict(model.named_modules())
    problems: list[str] = []
    orders: dict[str, list[int]] = {}
    for name, parts in sorted(stored.pieces.items()):
        owner, _, leaf = name.rpartition(".")
        meta = getattr(modules[owner], leaf)
        entries = list(parts.values())
        if None not in parts:
            if owner not in orders:
                orders[owner] = _expert_order(modules[owner], owner, stored, maps, device)
            entries = [parts[expert] for expert in orders[owner]]
        value = None
        if maps and entries[0].dtype == meta.dtype and entries[0].nbytes >= _SMALL:
            value = maps.view(entries, stacked=None not in parts)
        if value is None:
            value = torch.empty(meta.shape, dtype=meta.dtype, device=device)
            for slot, entry in enumerate(entries):
                tensorfile.read(entry, value if None in parts else value[slot])
        if entries[0].name.endswith(_RECIPROCAL):
            value.reciprocal_()
        if name.endswith(("_scale", "_scale_2")):
            problems += bad_scale(value, entries)
        setattr(
            modules[owner], leaf, nn.Parameter(value) if isinstance(meta, nn.Parameter) else value
        )
        done += sum(entry.nbytes for entry in entries)
        if progress:
            progress(done, total)
    return problems


def _expert_order(
    experts: nn.Module, name: str, stored: Stored, maps: Maps | None, device: torch.device | str
) -> list[int]:
    """The experts in the order they are stacked in: 0, 1, 2, .., or the file's own if that makes
    them views of it; the module then knows where each is."""
    found: list[list[int]] = []
    for leaf in ("up_proj", "down_proj"):
        parts = {e: entry for e, entry in stored.pieces[f"{name}.{leaf}"].items() if e is not None}
        order = sorted(parts, key=lambda e: parts[e].start)
        numbers = sorted(parts)
        if not maps or parts[order[0]].dtype != getattr(experts, leaf).dtype:
            return numbers
        if maps.view([parts[e] for e in order], stacked=True) is None:
            return numbers
        found.append(order)
    if found[0] != found[1] or found[0] == numbers:
        return numbers
    place = torch.empty(len(numbers), dtype=torch.int32, device=device)
    place[torch.tensor(found[0])] = torch.arange(len(numbers), dtype=torch.int32)
    experts.place = place
    return found[0]


def read_files(path: Path) -> dict[str, dict[str, Entry]]:
    """File -> name -> tensor of `model.safetensors` or of the files its index names.

    Raises CheckpointError for files that are missing, truncated or contradict the index.
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

    return files


def read_directory(path: Path) -> Stored:
    """The tensors of a directory's files, under model names.

    Raises CheckpointError as `read_files`, and for two tensors that claim the same place.
    """
    files = read_files(path)
    problems = []
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
            name, expert = model_name(name)
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
        if EXPERT.fullmatch(name) and None not in parts and t.dim():
            want = {expert: tuple(t.shape[1:]) for expert in range(t.shape[0])}
        for expert, shape in want.items():
            if expert not in parts:
                problems.append(f"missing {disk_name(name, expert)} {list(shape)}")
                continue
            entry, scale = parts[expert], t.dtype == torch.float32 and "_scale" in name
            flat = tuple(n for n in entry.shape if n != 1) if scale else entry.shape
            if flat != (tuple(n for n in shape if n != 1) if scale else shape):
                problems.append(
                    f"{disk_name(name, expert)} has shape {list(entry.shape)}, the config asks for "
                    f"{list(shape)} ({entry.path.name})"
                )
            if entry.dtype != t.dtype and not {entry.dtype, t.dtype} <= set(_FLOATS):
                problems.append(f"{where(entry)} is {entry.dtype}, not {t.dtype}")
        problems += [f"unexpected {disk_name(name, expert)}" for expert in parts.keys() - want]
    for name, parts in stored.pieces.items():
        for expert, entry in parts.items():
            if name not in needed:
                problems.append(
                    f"unexpected {disk_name(name, expert)} {list(entry.shape)} ({entry.path.name})"
                )
    return problems


def released_tensors(model: Model) -> Iterator[tuple[str, str, Tensor]]:
    """(released name, name in the model, tensor) in file order, experts one by one; views, nothing
    is copied."""
    tied = model.tied_names()
    tensors = model.state_dict()
    for name, t in tensors.items():
        if match := EXPERT.fullmatch(name):
            place = tensors.get(f"{match[1]}.place")
            for e in range(tensors[f"{match[1]}.{match[2]}"].shape[0]):
                slot = e if place is None else int(place[e])
                yield disk_name(name, e), name, t[slot] if t.dim() else t
        elif name not in tied and not name.endswith(".experts.place"):
            yield disk_name(name), name, t


def save(
    model: Model,
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = 5 << 30,
) -> None:
    """Write config.json and the tensors in the released layout, sharded with an index if larger
    than max_shard_bytes.

    dtype casts the weights (A_log, D, dt_bias, the correction biases and what is quantised stay as
    they are). Everything is written beside `path` first. A new directory appears whole or not at
    all; in an existing one every file is replaced atomically and weight files of an earlier
    checkpoint are removed.
    """
    if max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes must be positive, got {max_shard_bytes}")
    if dtype is not None and dtype not in _FLOATS:
        raise ValueError(f"dtype {dtype} is not supported, only {_FLOATS}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    shards: list[list[tuple[str, Tensor, torch.dtype]]] = [[]]
    size = total = 0
    fixed = model.fixed_names()
    for name, own_name, t in released_tensors(model):
        stored_dtype = t.dtype
        if dtype is not None and own_name not in fixed:
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
            write_json(
                staging / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map}
            )
        stored_as = str(dtype or model.dtype).removeprefix("torch.")
        values = model.config.to_dict() | {"torch_dtype": stored_as}
        values.pop("quantization_config", None)
        algorithms, rest = quantized_layers(model)
        if algorithms:
            theirs, ours = quant_configs(algorithms, rest, model.kv_cache_dtype == "fp8")
            write_json(staging / QUANT_CONFIG, theirs)
            values["quantization_config"] = ours
        write_json(staging / "config.json", values)
        publish(staging, path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def publish(staging: Path, path: Path) -> None:
    if not path.exists():
        staging.chmod(0o755)
        os.replace(staging, path)
        return
    written = sorted(file.name for file in staging.iterdir())
    stale = {file.name for file in path.glob("model*.safetensors")} | {INDEX, QUANT_CONFIG}
    for name in written:
        os.replace(staging / name, path / name)
    for name in stale - set(written):
        (path / name).unlink(missing_ok=True)


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

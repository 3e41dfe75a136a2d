# SPDX-License-Identifier: Apache-2.0
"""Quantised tensors of a checkpoint: which matrices are, with which scales, and what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..quantized import BLOCK, FP8Tensor, NVFP4Tensor
from .names import EXPERT, layer_name, where
from .quantization import Metadata, check_layer, missing_layers
from .tensorfile import Entry
from .weights import Matrices, scale_name

if TYPE_CHECKING:
    from .checkpoint import Stored
    from .model import Model

_FORMATS = {torch.uint8: "nvfp4", torch.float8_e4m3fn: "fp8"}


def hold_quantized(model: Model, stored: Stored, metadata: list[Metadata]) -> list[str]:
    """Make the matrices of a meta model that are stored quantised so, with the scales they need.
    Returns what contradicts the metadata."""
    problems, layers = [], set()
    tied = model.tied_names()
    for path, module in model.named_modules():
        for leaf in module.matrices if isinstance(module, Matrices) else ():
            name = f"{path}.{leaf}"
            parts = stored.pieces.get(name, {})
            if name in tied or not parts:
                continue
            inputs = "none"
            for expert, entry in parts.items():
                names = [layer_name(name, expert)]
                layers.update(names)
                if expert is None and EXPERT.fullmatch(name):
                    # Rules may be for each expert although they are stored as one tensor.
                    each = [layer_name(name, e) for e in range(getattr(module, leaf).shape[0])]
                    layers.update(each)
                    if not any(source.scheme(names[0]) for source in metadata):
                        names = each
                for layer in names:
                    form = _FORMATS.get(entry.dtype)
                    inputs, found = check_layer(metadata, layer, where(entry), form)
                    problems += found
            formats = {_FORMATS.get(entry.dtype) for entry in parts.values()}
            if len(formats) > 1:
                odd = Counter(entry.dtype for entry in parts.values()).most_common()[-1][0]
                first = next(entry for entry in parts.values() if entry.dtype == odd)
                problems.append(f"{where(first)} is {odd}, other experts of the layer are not")
            elif formats != {None}:
                inputs = "none" if path == "embeddings" else inputs
                problems += _hold(module, name, inputs, stored)
        for leaf in ("k_scale", "v_scale"):
            if path.endswith(f"{leaf[0]}_proj") and f"{path}.{leaf}" in stored.pieces:
                module.register_buffer(leaf, torch.empty((), device="meta"))
    return problems + list(missing_layers(metadata, layers))


def _hold(module: Matrices, name: str, inputs: str, stored: Stored) -> list[str]:
    leaf = name.rpartition(".")[2]
    owner, parts = name.removesuffix(leaf), stored.pieces[name]
    first = next(iter(parts.values()))
    *batch, N, K = getattr(module, leaf).shape

    def scale(part: str) -> Tensor:
        """Of the shape that is stored: one for all, one for each matrix or one for each row."""
        pieces = stored.pieces.get(owner + scale_name(leaf, part), {})
        size = max((prod(entry.shape) for entry in pieces.values()), default=1)
        size *= len(pieces) if None not in pieces else 1
        count = prod(batch)
        rows = size == count * N and part == "weight_scale"
        shape = (*batch, N) if rows else batch if size == count or None not in parts else ()
        return torch.empty(shape, device="meta")

    given: Tensor | str | None = None
    if inputs == "token":
        given = inputs
    elif inputs == "static" or owner + scale_name(leaf, "input_scale") in stored.pieces:
        given = scale("input_scale")
    if _FORMATS[first.dtype] == "fp8":
        data = torch.empty(*batch, N, K, dtype=torch.float8_e4m3fn, device="meta")
        module.hold(leaf, FP8Tensor(data, scale("weight_scale")), given)
    elif K % BLOCK:
        return [f"{where(first)} is nvfp4, its rows of {K} are no multiple of 16"]
    else:
        codes = torch.empty(*batch, N, K // 2, dtype=torch.uint8, device="meta")
        scales = torch.empty(*batch, N, K // BLOCK, dtype=torch.float8_e4m3fn, device="meta")
        module.hold(leaf, NVFP4Tensor(codes, scales, scale("weight_scale_2")), given)
    return []


def bad_scale(scales: Tensor, entries: Sequence[Entry]) -> list[str]:
    """The first scale that is no positive number, of a tensor read from one entry or from several
    stacked. Only the scale of a matrix of zeros may be 0."""
    if scales.dtype == torch.float8_e4m3fn:
        bits = scales.view(torch.uint8)  # NaN is 127, and the sign makes it larger
        if not bits.numel() or int(bits.max()) < 127:
            return []
        bad = bits >= 127
    else:
        bad = ~(scales >= 0) | scales.isinf()
        if any("input" in entry.name for entry in entries):
            bad |= scales == 0
    if not bad.any():
        return []
    at = bad.nonzero()[0].tolist()
    value = float(scales[tuple(at)].float())
    entry, at = (entries[at[0]], at[1:]) if len(entries) > 1 else (entries[0], at)
    return [f"{where(entry)} is {value}" + (f" at {at}" if at else "")]


def quantized_layers(model: Model) -> tuple[dict[str, str], list[str]]:
    """ModelOpt's algorithm of every quantised layer by released name, and the other layers."""
    algorithms: dict[str, str] = {}
    rest: list[str] = []
    for path, module in model.named_modules():
        for leaf in module.matrices if isinstance(module, Matrices) else ():
            experts: Sequence[int | None] = [None]
            if EXPERT.fullmatch(f"{path}.{leaf}"):
                experts = range(getattr(module, leaf).shape[0])
            names = [layer_name(f"{path}.{leaf}", e) for e in experts]
            names = [name if name == "lm_head" else f"backbone.{name}" for name in names]
            if leaf not in module.quantized():
                rest += names
                continue
            matrix, inputs = module.matrix(leaf, torch.float32), module.inputs(leaf)
            if isinstance(matrix, NVFP4Tensor):
                algorithm = "W4A16_NVFP4" if inputs is None else "NVFP4"
            elif inputs is None:
                raise ValueError(f"{path}.{leaf} is FP8 without a scale of its inputs, for which "
                                 "ModelOpt has no algorithm")  # fmt: skip
            else:
                algorithm = "FP8" if isinstance(inputs, Tensor) else "FP8_PER_CHANNEL_PER_TOKEN"
            algorithms |= dict.fromkeys(names, algorithm)
    return algorithms, rest

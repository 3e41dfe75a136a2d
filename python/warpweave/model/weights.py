# SPDX-License-Identifier: Apache-2.0
"""Matrices of a model in the precision that a checkpoint stores them in."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ..quantized import FP8Tensor, Matrix, NVFP4Tensor

Checked = tuple[NVFP4Tensor | FP8Tensor, tuple[tuple[str, Tensor | None], ...]]
SCALES = ("weight_scale", "weight_scale_2", "input_scale")


def scale_name(matrix: str, scale: str) -> str:
    """`weight_scale` of the matrix `weight` has that name, of `up_proj` `up_proj_weight_scale`."""
    stem = matrix.removesuffix("weight")
    return stem + scale if stem != matrix else f"{matrix}_{scale}"


class Matrices(nn.Module):
    """A module whose matrices are dense parameters, or quantised ones in buffers.

    A quantised matrix X is ModelOpt's X, X_weight_scale, X_weight_scale_2 (NVFP4 only) and, where
    the checkpoint has one for its activations, X_input_scale; without X_ where X is `weight`. No
    cast of the module changes their dtypes. In `per_token` are the matrices whose checkpoint
    quantises every row of the activations by its own largest magnitude.
    """

    matrices: tuple[str, ...] = ("weight",)
    per_token: frozenset[str] = frozenset()

    def matrix(self, name: str, dtype: torch.dtype) -> Matrix:
        dense = self._parameters.get(name)
        if dense is not None:
            return dense.to(dtype)
        # Put together and checked once, not in every step, for as long as the buffers are the same.
        known: dict[str, Checked] = self.__dict__.setdefault("_checked", {})
        if (entry := known.get(name)) is not None:
            matrix, parts = entry
            if all(self._buffers.get(part) is t for part, t in parts):
                return matrix
        matrix, names = self._check(name)
        known[name] = matrix, tuple((part, self._buffers[part]) for part in names)
        return matrix

    def _check(self, name: str) -> tuple[NVFP4Tensor | FP8Tensor, tuple[str, ...]]:
        """A quantised matrix, and the buffers that it is made of."""
        data: Tensor = getattr(self, name)
        if data.dtype == torch.uint8:
            names = (name, *(scale_name(name, s) for s in ("weight_scale", "weight_scale_2")))
            return NVFP4Tensor(*(getattr(self, part) for part in names)), names
        names = (name, scale_name(name, "weight_scale"))
        return FP8Tensor(*(getattr(self, part) for part in names)), names

    def inputs(self, name: str) -> Tensor | str | None:
        """How the checkpoint quantises what is multiplied with this matrix: the scale, "token" for
        one a row, None for not at all."""
        if name in self.per_token:
            return "token"
        return self._buffers.get(scale_name(name, "input_scale"))

    def hold(
        self, name: str, matrix: NVFP4Tensor | FP8Tensor, inputs: Tensor | str | None = None
    ) -> None:
        """Replace a matrix by a quantised one. inputs is as returned by `inputs`."""
        dense = getattr(self, name)
        if dense.shape != matrix.shape:
            raise ValueError(f"{name} has shape {tuple(dense.shape)}, not {tuple(matrix.shape)}")
        for old in (name, *(scale_name(name, scale) for scale in SCALES)):
            if hasattr(self, old):
                delattr(self, old)
        parts = {name: matrix.codes if isinstance(matrix, NVFP4Tensor) else matrix.data}
        if isinstance(matrix, NVFP4Tensor):
            parts[scale_name(name, "weight_scale")] = matrix.block_scales
            parts[scale_name(name, "weight_scale_2")] = matrix.global_scale
        else:
            parts[scale_name(name, "weight_scale")] = matrix.scale
        if isinstance(inputs, Tensor):
            parts[scale_name(name, "input_scale")] = inputs
        for part, t in parts.items():
            self.register_buffer(part, t)
        self.per_token -= {name}
        if isinstance(inputs, str):
            self.per_token |= {name}

    def quantized(self) -> Iterator[str]:
        """The matrices that are."""
        return (name for name in self.matrices if name in self._buffers)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Matrices:
        keep = {id(t) for t in self._buffers.values()}

        def apply(t: Tensor) -> Tensor:
            if id(t) not in keep:
                return fn(t)
            probe = fn(t.new_empty(0))  # a cast of the whole would be a copy for nothing
            return fn(t) if probe.dtype == t.dtype else t.to(probe.device)

        return super()._apply(apply, recurse)  # type: ignore[no-any-return, no-untyped-call]

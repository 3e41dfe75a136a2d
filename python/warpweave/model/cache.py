# SPDX-License-Identifier: Apache-2.0
"""What a model remembers of the tokens it has seen: keys and values, convolution and SSM states."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .backend import Backend
from .config import Config

KV_DTYPES = ("bf16", "fp8")
SSM_DTYPES = ("float32", "bfloat16", "float16")
_E4M3_MAX = 448.0


def check_ssm_cache(dtype: str, rounding: str) -> None:
    if dtype not in SSM_DTYPES:
        raise ValueError(f"ssm_cache_dtype {dtype!r} must be one of {', '.join(SSM_DTYPES)}")
    if rounding != "nearest" and (rounding, dtype) != ("stochastic", "float16"):
        raise ValueError(
            f"ssm_rounding {rounding!r} with ssm_cache_dtype {dtype!r} is not supported, only "
            "'nearest', and 'stochastic' with 'float16'"
        )


class MambaState:
    """conv (B, conv_dim, W-1), the last inputs of the convolution; ssm (B, H, P, N).

    With a generator, the state is fp16 and rounded stochastically: one that is rounded to nearest
    at every token loses whatever is smaller than half a unit, every time. In `weights` is what the
    layer derives from its own: A, filters and biases.
    """

    weights: tuple[Tensor, Tensor, Tensor | None] | None = None

    def __init__(
        self,
        config: Config,
        batch_size: int,
        dtype: torch.dtype,
        device: torch.device,
        ssm_dtype: torch.dtype,
        generator: torch.Generator | None = None,
    ):
        H, P, N = config.mamba_num_heads, config.mamba_head_dim, config.ssm_state_size
        conv_shape = (batch_size, config.conv_dim, config.conv_kernel - 1)
        self.conv = torch.zeros(conv_shape, dtype=dtype, device=device)
        self.ssm = torch.zeros(batch_size, H, P, N, dtype=ssm_dtype, device=device)
        self.generator = generator

    @property
    def rounding(self) -> dict[str, Any]:
        """As ssm_step takes it."""
        if self.generator is None:
            return {}
        return {"rounding": "stochastic", "generator": self.generator}

    def keep(self, ssm: Tensor, ops: Backend) -> None:
        """Store the state after a prompt, rounded as steps round it: by one from zero, with a head
        for each row of the state, whose B is the row."""
        if self.generator is None:
            self.ssm.copy_(ssm)
            return
        rows = ssm.flatten(1, 2)
        one = rows.new_ones(*rows.shape[:2], 1)
        state = self.ssm.zero_().view(*rows.shape[:2], 1, rows.shape[2])
        A = rows.new_zeros(rows.shape[1])
        ops.ssm_step(state, one, one[..., 0], A, rows, rows, **self.rounding)

    def nbytes(self) -> int:
        return self.conv.nbytes + self.ssm.nbytes


class AttentionState:
    """k and v (B, kv heads, capacity, head_dim); row b is filled up to the cache's lengths[b].

    In dtype float8_e4m3fn they hold k / k_scale and v / v_scale. The scales are on the host: one
    belongs to the scale of attention's softmax, the other to its result.
    """

    k_scale = v_scale = 1.0

    def __init__(self, config: Config, batch_size: int, dtype: torch.dtype, device: torch.device):
        shape = (batch_size, config.num_key_value_heads, 0, config.head_dim)
        self.k = torch.zeros(shape, dtype=dtype, device=device)
        self.v = torch.zeros(shape, dtype=dtype, device=device)

    def nbytes(self) -> int:
        return self.k.nbytes + self.v.nbytes

    def reserve(self, length: int) -> None:
        """Make room for `length` tokens. Capacity doubles, so n appends copy O(n) tokens."""
        B, heads, capacity, dim = self.k.shape
        if length > capacity:
            for name in ("k", "v"):
                old = getattr(self, name)
                new = torch.zeros(
                    B, heads, max(length, 2 * capacity), dim, dtype=old.dtype, device=old.device
                )
                new[:, :, :capacity] = old
                setattr(self, name, new)

    def append(self, past: list[int], k: Tensor, v: Tensor, row: int | None = None) -> None:
        """Write k, v (B, heads, T, dim) behind the past[b] tokens of each row, or of one row."""
        if self.k.dtype == torch.float8_e4m3fn:
            k, v = _to_fp8(k, self.k_scale), _to_fp8(v, self.v_scale)
        self._write(past, k, v, row)

    def _write(self, past: list[int], k: Tensor, v: Tensor, row: int | None) -> None:
        T = k.shape[2]
        if row is not None:
            self.k[row, :, past[row] : past[row] + T] = k[0]
            self.v[row, :, past[row] : past[row] + T] = v[0]
        elif len(set(past)) == 1:
            self.k[:, :, past[0] : past[0] + T] = k
            self.v[:, :, past[0] : past[0] + T] = v
        else:
            for b in range(len(past)):
                self._write(past, k[b : b + 1], v[b : b + 1], b)

    def read(
        self, length: int, dtype: torch.dtype, row: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """What is stored for (B, heads, length, dim) of all rows, or of one, in dtype. Views,
        unless it is fp8, which every wider dtype holds exactly."""
        rows = slice(None) if row is None else slice(row, row + 1)
        return self.k[rows, :, :length].to(dtype), self.v[rows, :, :length].to(dtype)


def _to_fp8(x: Tensor, scale: float) -> Tensor:
    return (x.float() / scale).clamp(-_E4M3_MAX, _E4M3_MAX).to(torch.float8_e4m3fn)


class Cache:
    """The state of `batch_size` sequences. `lengths[b]` counts the tokens sequence b has seen.

    The lengths live on the host: they follow from the shapes of the calls alone, so no step waits
    for a device to learn them. SSM states have ssm_dtype, by default `mamba_ssm_cache_dtype`
    (float32 in the released models); `seed` makes their stochastic rounding repeatable. `capacity`
    reserves keys and values for that many tokens; beyond it they grow by doubling.
    """

    def __init__(
        self,
        config: Config,
        batch_size: int = 1,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        capacity: int = 0,
        kv_dtype: str = "bf16",
        ssm_dtype: str | None = None,
        ssm_rounding: str = "nearest",
        seed: int = 0,
    ):
        if batch_size < 0:
            raise ValueError(f"batch_size must not be negative, got {batch_size}")
        ssm_dtype = ssm_dtype or config.mamba_ssm_cache_dtype
        check_ssm_cache(ssm_dtype, ssm_rounding)
        wide = dtype == torch.float64
        ssm = torch.float64 if wide else getattr(torch, ssm_dtype)
        kv = torch.float8_e4m3fn if kv_dtype == "fp8" else dtype
        device = torch.device(device)
        generator = None
        if ssm_rounding == "stochastic" and not wide:
            generator = torch.Generator().manual_seed(seed)
        self.lengths = [0] * batch_size
        self.layers: list[MambaState | AttentionState | None] = []
        for letter in config.pattern:
            state: MambaState | AttentionState | None = None
            if letter == "M":
                state = MambaState(config, batch_size, dtype, device, ssm, generator)
            elif letter == "*":
                state = AttentionState(config, batch_size, kv, device)
            self.layers.append(state)
        self.reserve(capacity)

    @property
    def batch_size(self) -> int:
        return len(self.lengths)

    def reserve(self, length: int) -> None:
        """Make room for keys and values of `length` tokens in every row."""
        for layer in self.layers:
            if isinstance(layer, AttentionState):
                layer.reserve(length)

    def nbytes(self) -> int:
        """Bytes of all states, with the reserved room for keys and values."""
        return sum(layer.nbytes() for layer in self.layers if layer is not None)

# SPDX-License-Identifier: Apache-2.0
"""What a model remembers of the tokens it has seen: keys and values, convolution and SSM states."""

from __future__ import annotations

import torch
from torch import Tensor

from .config import Config


class MambaState:
    """conv (B, conv_dim, W-1), the last inputs of the convolution; ssm (B, H, P, N)."""

    def __init__(self, config: Config, batch_size: int, dtype: torch.dtype, device: torch.device):
        H, P, N = config.mamba_num_heads, config.mamba_head_dim, config.ssm_state_size
        ssm_dtype = (
            dtype if dtype == torch.float64 else getattr(torch, config.mamba_ssm_cache_dtype)
        )
        conv_shape = (batch_size, config.conv_dim, config.conv_kernel - 1)
        self.conv = torch.zeros(conv_shape, dtype=dtype, device=device)
        self.ssm = torch.zeros(batch_size, H, P, N, dtype=ssm_dtype, device=device)

    def nbytes(self) -> int:
        return self.conv.nbytes + self.ssm.nbytes


class AttentionState:
    """k and v (B, kv heads, capacity, head_dim); row b is filled up to the cache's lengths[b]."""

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
                new = old.new_zeros(B, heads, max(length, 2 * capacity), dim)
                new[:, :, :capacity] = old
                setattr(self, name, new)

    def append(self, past: list[int], k: Tensor, v: Tensor, row: int | None = None) -> None:
        """Write k, v (B, heads, T, dim) behind the past[b] tokens of each row, or of one row."""
        T = k.shape[2]
        if row is not None:
            self.k[row, :, past[row] : past[row] + T] = k[0]
            self.v[row, :, past[row] : past[row] + T] = v[0]
        elif len(set(past)) == 1:
            self.k[:, :, past[0] : past[0] + T] = k
            self.v[:, :, past[0] : past[0] + T] = v
        else:
            for b in range(len(past)):
                self.append(past, k[b : b + 1], v[b : b + 1], row=b)


class Cache:
    """The state of `batch_size` sequences. `lengths[b]` counts the tokens sequence b has seen.

    The lengths live on the host: they follow from the shapes of the calls alone, so no step waits
    for a device to learn them. SSM states have `mamba_ssm_cache_dtype` (float32 in the released
    models). `capacity` reserves keys and values for that many tokens; beyond it they grow by
    doubling.
    """

    def __init__(
        self,
        config: Config,
        batch_size: int = 1,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        capacity: int = 0,
    ):
        if batch_size < 0:
            raise ValueError(f"batch_size must not be negative, got {batch_size}")
        kinds: dict[str, type[MambaState | AttentionState]]
        kinds = {"M": MambaState, "*": AttentionState}
        device = torch.device(device)
        self.lengths = [0] * batch_size
        self.layers: list[MambaState | AttentionState | None] = [
            kinds[letter](config, batch_size, dtype, device) if letter in kinds else None
            for letter in config.pattern
        ]
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

# SPDX-License-Identifier: Apache-2.0
"""Random words that depend on a seed and an index alone, and rounding with them."""

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
HALF_MAX = 65504.0


def draw_seed(generator: torch.Generator | None) -> int:
    return int(torch.randint(-(2**63), 2**63 - 1, (), generator=generator))


def philox(counter: tuple[Tensor, ...], key: int) -> tuple[Tensor, ...]:
    """Philox4x32-10 of Salmon et al., SC 2011: 128 bits of counter to as many random ones, in words
    of 32 from the lowest on."""
    c = counter
    k0, k1 = key & WORD, key >> 32 & WORD
    for _ in range(10):
        a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57  # exact modulo 2^64
        c = (b >> 32 & WORD ^ c[1] ^ k0, b & WORD, a >> 32 & WORD ^ c[3] ^ k1, a & WORD)
        k0, k1 = k0 + 0x9E3779B9 & WORD, k1 + 0xBB67AE85 & WORD
    return c


def words_of(counters: Tensor, key: int) -> Tensor:
    """The four words (..., 4) of counters below 2^64."""
    zero = torch.zeros_like(counters)
    return torch.stack(philox((counters & WORD, counters >> 32, zero, zero), key), -1)


def stochastic_half(x: Tensor, rows: Tensor, seed: int) -> Tensor:
    """x (..., N) in fp16, up from the value below in magnitude with the probability of the way
    there: |x| + u 2^-13 step is truncated to a multiple of step, the distance of fp16 at |x|.

    u are the low 13 bits of half n % 8 of Philox's words at the counter row * ceil(N/8) + n / 8,
    each word's lower half first; rows (...) has the rows' numbers. Finite values saturate at 65504.
    """
    N = x.shape[-1]
    per_row = -(-N // 8)
    counters = rows[..., None] * per_row + torch.arange(per_row, device=x.device)
    words = words_of(counters, seed)
    random = torch.stack([words, words >> 16], -1).flatten(-3)[..., :N] & 0x1FFF
    v = x.double().abs()
    step = torch.exp2(torch.frexp(v)[1].clamp(min=-13) - 11)
    cut = (torch.floor(v / step + random * 2.0**-13) * step).clamp(max=HALF_MAX)
    return torch.where(x.isfinite(), cut.copysign(x), x.double()).to(torch.float16)

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from warpweave.quantized import NVFP4Tensor

from ._registry import draw_seed

_op = torch.ops.warpweave.nvfp4_quantize.default


def nvfp4_quantize(
    x: Tensor,
    *,
    global_scale: Tensor | Literal["row"] | None = None,
    block: Literal["1d", "2d"] = "1d",
    rounding: Literal["nearest", "stochastic"] = "nearest",
    hadamard: bool = False,
    four_over_six: bool = False,
    generator: torch.Generator | None = None,
) -> NVFP4Tensor:
    """NVFP4: code = e2m1(x / (s * g)), s = e4m3((amax / 6) / g) for each 16 elements along K.

    Args:
        x: (..., N, K) float32, bfloat16 or float16, K a multiple of 16. Rows of neighbouring
            elements with one stride between them are read where they lie; other strides cost one
            copy. It counts as a constant: codes have no gradient.
        global_scale: g, the fp32 decode multiplier. None is amax / 2688 (1536 with four_over_six)
            of all of x, "row" that of each row, and 1 where that is 0; or a float32 Tensor, () for
            all, (...) for one a matrix or (..., N) for one a row, which must be positive.
        block: "2d" shares s between the 16 rows of a tile as well, so that the transposed matrix
            has the same scales: N a multiple of 16, no g for each row.
        rounding: "nearest", ties to the even code; or "stochastic": up from the value below
            with the probability of the way to the next, by 24 random bits.
        hadamard: x diag(signs) H16 / 4 along K takes the place of x, in fp32; signs as Transformer
            Engine has them.
        four_over_six: a block's amax goes to 6 or, with s = e4m3((amax / 4) / g), to 4: the lower
            sum of squared errors of rounding to nearest, 6 if they are equal.
        generator: a CPU generator, from which "stochastic" draws its seed of 64 bits; default
            torch's own. Random words are Philox4x32-10 of the element's index.

    Returns:
        NVFP4Tensor of x's shape and device. Block scales saturate at 448 and codes at 6. Negative
        values that round to zero keep their sign (code 8), -0.0 does not. Where s * g is 0 all
        codes are 0.

    fp32 throughout, each quotient and product rounded once: the same bits on every device, by any
    kernel and for any number of threads. Infinity or NaN in x is a ValueError on a CPU, naming the
    first; on CUDA, where no call waits for its result, g comes from the other values and the
    block's s is NaN. Errors: ValueError naming the argument. arXiv 2509.25149; four over six is
    arXiv 2512.02010.
    """
    if block not in ("1d", "2d"):
        raise ValueError(f"nvfp4_quantize: 'block' is {block!r}; supported: '1d', '2d'")
    seed = draw_seed("nvfp4_quantize", rounding, generator)
    by_row = isinstance(global_scale, str)
    if by_row and global_scale != "row":
        raise ValueError(
            f"nvfp4_quantize: 'global_scale' is {global_scale!r}; supported: None, 'row', a Tensor"
        )
    given = global_scale.detach() if isinstance(global_scale, Tensor) else None
    codes, block_scales, scale = _op(
        x.detach(), given, seed, by_row, block == "2d", hadamard, four_over_six
    )
    return NVFP4Tensor(codes, block_scales, scale if given is None else given)


@torch.library.register_fake("warpweave::nvfp4_quantize")
def _fake(x, global_scale, seed, by_row, *args):  # type: ignore[no-untyped-def]
    *rows, K = x.shape
    scale = x.new_empty((0,) if global_scale is not None else rows if by_row else (),
                        dtype=torch.float32)  # fmt: skip
    codes = x.new_empty((*rows, K // 2), dtype=torch.uint8)
    return codes, x.new_empty((*rows, K // 16), dtype=torch.float8_e4m3fn), scale

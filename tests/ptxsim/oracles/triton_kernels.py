# SPDX-License-Identifier: Apache-2.0
"""Triton's PTX of a matmul and of a row reduction, for a GPU target and without a GPU.

Writes <kernel>_sm_<arch>.ptx and <kernel>_sm_<arch>.json. The JSON holds what a launcher needs:
entry name, threads, dynamic shared memory, cluster, and the kernel parameters in order. The two
that Triton appends (pointers to scratch memory of the sizes given, null where that is 0) are among
them.

    python triton_kernels.py OUT [--arch 80 --arch 90]

Needs `pip install --no-deps triton`; importing this module without it raises ModuleNotFoundError.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def matmul(
    a,
    b,
    d,
    m,
    n,
    k,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """d (m, n) = a (m, k) @ b (k, n), row-major; a program makes one tile, any m, n, k."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    steps = tl.arange(0, BLOCK_K)
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, k, BLOCK_K):
        inner = start + steps
        x = tl.load(
            a + rows[:, None] * k + inner[None, :],
            mask=(rows[:, None] < m) & (inner[None, :] < k),
            other=0.0,
        )
        y = tl.load(
            b + inner[:, None] * n + columns[None, :],
            mask=(inner[:, None] < k) & (columns[None, :] < n),
            other=0.0,
        )
        total = tl.dot(x, y, total)
    tl.store(
        d + rows[:, None] * n + columns[None, :],
        total,
        mask=(rows[:, None] < m) & (columns[None, :] < n),
    )


@triton.jit
def softmax(x, y, columns, stride, BLOCK: tl.constexpr):
    """y = softmax of each float32 row of x; a program takes one row of at most BLOCK columns."""
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    values = tl.load(x + row * stride + at, mask=at < columns, other=-float("inf"))
    powers = tl.exp(values - tl.max(values, axis=0))
    tl.store(y + row * stride + at, powers / tl.sum(powers, axis=0), mask=at < columns)


# Pointers and extents known to be divisible by 16 get wide loads and cp.async, others neither.
DIVISIBLE = [["tt.divisibility", 16]]
BF16_MATMUL = {"a": "*bf16", "b": "*bf16", "d": "*fp32", "m": "i32", "n": "i32", "k": "i32"}
TILES = {"BLOCK_M": 128, "BLOCK_N": 64, "BLOCK_K": 32}
ROWS = {"x": "*fp32", "y": "*fp32", "columns": "i32", "stride": "i32"}

# name: (function, argument types, constants, divisible arguments, options)
KERNELS: dict[str, tuple[Any, dict[str, str], dict[str, int], str, dict[str, int]]] = {
    "triton_matmul": (matmul, BF16_MATMUL, TILES, "abdnk", {"num_stages": 3}),
    "triton_matmul_any": (matmul, BF16_MATMUL, TILES, "abd", {"num_stages": 3}),
    "triton_softmax": (softmax, ROWS, {"BLOCK": 1024}, "xy", {}),
}


def compile_kernel(name: str, arch: int) -> tuple[str, dict[str, Any]]:
    """The PTX of kernel `name` for sm_<arch> and how to launch it."""
    function, types, constants, divisible, options = KERNELS[name]
    # Triton brings two assemblers and writes for the one it picks: 9.4 on sm_90, newer than our
    # ISA. Both of them and nvcc 13.0 know 8.8.
    options = {"num_warps": 4, "ptx_version": 88, "enable_fp_fusion": True, **options}
    names = list(types)
    source = ASTSource(
        fn=function,
        signature={**types, **dict.fromkeys(constants, "constexpr")},
        constexprs={(len(names) + i,): value for i, value in enumerate(constants.values())},
        attrs={(names.index(argument),): DIVISIBLE for argument in divisible},
    )
    built = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    facts = built.metadata
    return built.asm["ptx"], {
        "entry": facts.name,
        "arch": arch,
        "threads": facts.num_warps * 32,
        "shared": facts.shared,
        "cluster": facts.num_ctas,
        "parameters": [[argument, types[argument]] for argument in names]
        + [["global_scratch", "*i8"], ["profile_scratch", "*i8"]],
        "scratch_bytes": [facts.global_scratch_size, facts.profile_scratch_size],
        "constants": constants,
        "divisible_by_16": list(divisible),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--arch", type=int, action="append", help="80, 90; may be repeated")
    arguments = parser.parse_args()
    os.environ.setdefault("TRITON_CACHE_DIR", str(arguments.out / "triton_cache"))
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in KERNELS:
        for arch in arguments.arch or (80, 90):
            ptx, launch = compile_kernel(name, arch)
            stem = arguments.out / f"{name}_sm_{arch}"
            stem.with_suffix(".ptx").write_text(ptx)
            stem.with_suffix(".json").write_text(json.dumps(launch, indent=1) + "\n")
            print(f"{stem.name}: {ptx.count(chr(10))} lines, {launch['shared']} bytes shared")


if __name__ == "__main__":
    main()

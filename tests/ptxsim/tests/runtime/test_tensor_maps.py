# SPDX-License-Identifier: Apache-2.0
"""cuTensorMapEncodeTiled, found as host code finds it, takes what cuda.h documents and no more."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from ptxsim.tests.runtime.cuda import Cuda

# CUtensorMapDataType, CUtensorMapSwizzle
U16, BF16, U4_ALIGN8, U4_ALIGN16 = 1, 9, 13, 14
NO_SWIZZLE, SWIZZLE_32, SWIZZLE_64, SWIZZLE_128 = range(4)

THREE = {"rank": 3, "size": (64, 8, 8), "stride": (128, 1024), "box": (8, 1, 1), "steps": (1, 1, 1)}
GOOD: list[dict[str, Any]] = [
    {}, {"steps": (0, 1)}, {"fill": 1}, {"size": (2**32, 1)}, {"stride": (2**40 - 16,)},
    {"address": 0}, {"box": (64, 256)}, {"swizzle": 4}, {"swizzle": 5}, {"swizzle": 6},
    {"swizzle": SWIZZLE_64, "box": (32, 1)}, {"swizzle": SWIZZLE_32, "box": (16, 1)},
    {"swizzle": NO_SWIZZLE, "box": (256, 1)},
    {"rank": 1, "size": (9,), "box": (8,), "swizzle": NO_SWIZZLE},
    {"rank": 5, "size": (64, 3, 4, 5, 6), "stride": (128, 512, 2048, 16384),
     "box": (8, 1, 1, 2, 3), "steps": (1,) * 5},
    {"kind": U4_ALIGN16, "size": (128, 2), "box": (128, 1)},
    {"kind": U4_ALIGN8, "size": (128, 2), "box": (128, 1)},
    {**THREE, "interleave": 2, "swizzle": SWIZZLE_32},
]  # fmt: skip
BAD: list[dict[str, Any]] = [
    {"address": 0x10008}, {"size": (0, 1)}, {"size": (2**32 + 1, 1)}, {"stride": (120,)},
    {"stride": (2**40,)}, {"box": (65, 16)}, {"box": (72, 16)}, {"box": (64, 257)},
    {"box": (0, 1)}, {"box": (4, 1), "swizzle": NO_SWIZZLE}, {"steps": (1, 9)}, {"steps": (1, 0)},
    {"interleave": 1}, {"swizzle": 7}, {"l2": 4}, {"fill": 2}, {"kind": U16, "fill": 1},
    {"rank": 0}, {"rank": 6}, {"kind": 16}, {"swizzle": SWIZZLE_64}, {"swizzle": SWIZZLE_32},
    {"box": (256, 1)}, {"kind": U4_ALIGN8, "size": (65, 2), "swizzle": NO_SWIZZLE},
    {"kind": U4_ALIGN16, "box": (64, 1)},
    {"kind": U4_ALIGN16, "address": 0x10010, "size": (128, 2), "box": (128, 1)},
    {**THREE, "interleave": 2, "swizzle": NO_SWIZZLE}, {"unaligned": 32},
]  # fmt: skip


def entry_point(cuda: Cuda, name: bytes, version: int = 12000) -> tuple[int, int, int | None]:
    found, result = ctypes.c_void_p(), ctypes.c_int(-1)
    status = cuda.GetDriverEntryPointByVersion(
        name, ctypes.byref(found), version, 0, ctypes.byref(result)
    )
    return status, result.value, found.value


def encode(cuda: Cuda, kind: int = BF16, rank: int = 2, address: int = 0x10000,
           size: tuple[int, ...] = (64, 32), stride: tuple[int, ...] = (128,),
           box: tuple[int, ...] = (64, 16), steps: tuple[int, ...] = (1, 1), interleave: int = 0,
           swizzle: int = SWIZZLE_128, l2: int = 0, fill: int = 0,
           unaligned: int = 0) -> int:  # fmt: skip
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    _, _, found = entry_point(cuda, b"cuTensorMapEncodeTiled")
    assert found
    function = ctypes.CFUNCTYPE(integer, pointer, integer, ctypes.c_uint, *[pointer] * 5,
                                *[integer] * 4)(found)  # fmt: skip
    room = np.zeros(256, np.uint8)
    to = room.ctypes.data + -room.ctypes.data % 64 + unaligned
    return int(function(to, kind, rank, address, (ctypes.c_uint64 * 5)(*size),
                        (ctypes.c_uint64 * 4)(*stride), (ctypes.c_uint32 * 5)(*box),
                        (ctypes.c_uint32 * 5)(*steps), interleave, swizzle, l2, fill))  # fmt: skip


def test_entry_points(cuda: Cuda) -> None:
    success, not_found, too_old = range(3)
    assert entry_point(cuda, b"cuTensorMapEncodeTiled")[:2] == (0, success)
    assert entry_point(cuda, b"cuTensorMapEncodeTiled", 11080)[:2] == (0, too_old)
    assert entry_point(cuda, b"cuTensorMapEncodeIm2col") == (0, not_found, None)


@pytest.mark.parametrize("arguments", GOOD, ids=str)
def test_accepted(cuda: Cuda, arguments: dict[str, Any]) -> None:
    assert encode(cuda, **arguments) == 0


@pytest.mark.parametrize("arguments", BAD, ids=str)
def test_refused(cuda: Cuda, arguments: dict[str, Any]) -> None:
    assert encode(cuda, **arguments) == 1


def test_card_without_tensor_maps(ampere: Cuda) -> None:
    assert encode(ampere) == 801

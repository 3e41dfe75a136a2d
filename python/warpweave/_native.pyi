# SPDX-License-Identifier: Apache-2.0
"""Host-side API of the kernels; importing it, after torch, registers torch.ops.warpweave."""

from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

class BuildInfo(TypedDict):
    version: str
    compiler: str
    torch_headers: str  # of the torch that this was built against
    torch_minimum: str  # the oldest that it runs with
    cuda_archs: str  # "80 90a"; empty without CUDA kernels

class CudaInfo(TypedDict):
    built: bool  # this build has CUDA kernels
    loaded: bool  # libwarpweave_cuda.so could be opened
    archs: str
    cutlass: str  # "4.2.0"; empty: compiled without, so sm_90a takes sm_80's group product
    device_count: int
    problem: str  # the first thing that keeps a CUDA op from running; empty if nothing does

class _CpuKernel(TypedDict):
    op: str
    target: str  # "cpu:avx512", or "cuda"
    dtypes: str  # separated by spaces

class Kernel(_CpuKernel, total=False):
    """The rest is there for CUDA kernels; without a device its numbers are 0."""

    variant: str
    when: str  # the rule by which it is chosen, where variant and dtypes do not say
    arch: int
    registers: int
    shared_bytes: int
    local_bytes: int

def build_info() -> BuildInfo:
    """Version, compiler, torch headers and CUDA architectures of this build."""

def cpu_isa() -> str:
    """The instruction set that CPU kernels use now.

    The best of the machine, unless WARPWEAVE_CPU_ISA or set_cpu_isa() names a lower one."""

def cpu_isas() -> list[str]:
    """The instruction sets this machine can run, lowest first."""

def set_cpu_isa(name: str) -> None:
    """Use no instruction set above this one. ValueError if unknown or not supported here."""

def kernels() -> list[Kernel]:
    """The registry: a dict for each compiled kernel, with at least its op, target and dtypes."""

def kernel_for(op: str, device: Literal["cpu", "cuda"] = "cpu") -> str:
    """The target that a call will take, as "cpu:avx512" or "cuda:sm_90".

    ValueError if the op is unknown or cannot run on the device, with the reason."""

class Launch(TypedDict):
    op: str
    variant: str
    because: str  # why not another kernel, where a rule chose this one; else empty

def launches() -> list[Launch]:
    """The CUDA kernels that this thread launched since it last asked, at most 64, in order.

    While a simulated library is set, those of that."""

def cuda_info() -> CudaInfo:
    """Whether CUDA ops can run here, and what is missing if not."""

def set_nvtx(on: bool) -> None:
    """Whether every CUDA op is an NVTX range, "warpweave::<op>". Off unless WARPWEAVE_NVTX is 1."""

def simulate_cuda(library: str, begin: int = 0, end: int = 0) -> None:
    """For tests: ops on CPU tensors run the CUDA kernels of `library`, a libwarpweave_cuda.so whose
    runtime is a simulator's; with '' they run the CPU kernels again.

    `begin` and `end` are the addresses of the simulator's functions that csrc/bindings/
    simulated_cuda.h describes. ValueError if the library cannot be loaded."""

class _Numerics:
    """Scalar and vector numerics of the kernels, for tests.

    Encoders round to nearest, ties to even, and take fp32; e2m1 codes lie in the low nibble."""

    @staticmethod
    def vector_math(name: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """exp, log1p, softplus, sigmoid, silu, round_bf16 or round_f16 on the current cpu_isa().

        At most 2 ulp. ValueError for another name."""

    @staticmethod
    def encode_bf16(x: NDArray[np.float32]) -> NDArray[np.uint16]: ...
    @staticmethod
    def encode_f16(x: NDArray[np.float32]) -> NDArray[np.uint16]: ...
    @staticmethod
    def encode_e4m3(x: NDArray[np.float32]) -> NDArray[np.uint8]: ...
    @staticmethod
    def encode_e2m1(x: NDArray[np.float32]) -> NDArray[np.uint8]: ...
    @staticmethod
    def decode_bf16(codes: NDArray[np.uint16]) -> NDArray[np.float32]: ...
    @staticmethod
    def decode_f16(codes: NDArray[np.uint16]) -> NDArray[np.float32]: ...
    @staticmethod
    def decode_e4m3(codes: NDArray[np.uint8]) -> NDArray[np.float32]: ...
    @staticmethod
    def decode_e2m1(codes: NDArray[np.uint8]) -> NDArray[np.float32]: ...

numerics: _Numerics

#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Profiles benchmarks of CUDA ops: bench/nsys.sh WORD ..  (the words of bench/run.py)
# Leaves warpweave.nsys-rep and prints the kernels by time, under the NVTX range of their op.
set -euo pipefail
cd "$(dirname "$0")/.."
WARPWEAVE_NVTX=1 nsys profile --trace=cuda,nvtx --force-overwrite=true --output=warpweave \
  "${PYTHON:-python}" bench/run.py --device cuda "$@"
nsys stats --report nvtx_kern_sum,cuda_gpu_kern_sum warpweave.nsys-rep

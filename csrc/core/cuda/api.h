// SPDX-License-Identifier: Apache-2.0
// What libwarpweave_cuda.so exports, besides one launcher an op:
//
//   int ww_<op>(const ww::<Op>Params*, void* stream)
//   int64_t ww_<op>_workspace(const ww::<Op>Params*)   bytes for params.workspace, if it has that
//
// A launcher runs on the current device, asynchronously on `stream` (a cudaStream_t), checks the
// launch and returns a cudaError_t: 0 is success, -1 that its kernels do not support the params and
// ww_error_string() says why. It trusts its params otherwise: the caller has run <op>_check on
// them.
#pragma once

#include <stdint.h>

namespace ww {

struct CudaKernelInfo {  // one compiled kernel
  const char* op;
  const char* variant;   // the template arguments, in words
  const char* dtypes;
  const char* when;      // the rule by which it is chosen, where that is not plain
  // What the current device runs; null and 0 without a device.
  const char* symbol;    // as the linker knows it
  int32_t arch;          // 90 for sm_90a
  int32_t registers;
  int32_t shared_bytes;  // static
  int32_t local_bytes;   // a thread's: arrays that registers do not hold, and spills
};

struct CudaLaunch {      // one launch of a kernel
  const char* op;
  const char* variant;
  const char* because;   // why not another, where a rule chose; else empty
};

}  // namespace ww

extern "C" {
const char* ww_version();
const char* ww_error_string(int status);
int ww_device_count(int* count);
void ww_range(const char* name);  // starts an NVTX range, or ends the last one if it is null
// Fills at most `capacity` rows and returns how many there are.
int ww_kernels(ww::CudaKernelInfo* rows, int capacity);
// This thread's launches since the last call of this, the last 64 of them at most; as above.
int ww_launches(ww::CudaLaunch* rows, int capacity);
}

// SPDX-License-Identifier: Apache-2.0
// Names and texts of error codes, and the last error of a thread.
#include "runtime/session.h"

namespace ptxsim::runtime {
namespace {

struct ErrorFacts {
  cudaError_t code;
  const char *name, *text;
};

// Every code of CUDA 13.0 by name. Texts are given for those that this library returns, as
// libcudart has them, because host code prints them; the others have their name for a text.
#define CODE(name) {name, #name, #name}
#define TEXT(name, text) {name, #name, text}
constexpr ErrorFacts kErrors[] = {
    TEXT(cudaSuccess, "no error"),
    TEXT(cudaErrorInvalidValue, "invalid argument"),
    TEXT(cudaErrorMemoryAllocation, "out of memory"),
    TEXT(cudaErrorInitializationError, "initialization error"),
    CODE(cudaErrorCudartUnloading),
    CODE(cudaErrorProfilerDisabled),
    CODE(cudaErrorProfilerNotInitialized),
    CODE(cudaErrorProfilerAlreadyStarted),
    CODE(cudaErrorProfilerAlreadyStopped),
    TEXT(cudaErrorInvalidConfiguration, "invalid configuration argument"),
    TEXT(cudaErrorInvalidPitchValue, "invalid pitch argument"),
    TEXT(cudaErrorInvalidSymbol, "invalid device symbol"),
    CODE(cudaErrorInvalidHostPointer),
    CODE(cudaErrorInvalidDevicePointer),
    CODE(cudaErrorInvalidTexture),
    CODE(cudaErrorInvalidTextureBinding),
    CODE(cudaErrorInvalidChannelDescriptor),
    TEXT(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy"),
    CODE(cudaErrorAddressOfConstant),
    CODE(cudaErrorTextureFetchFailed),
    CODE(cudaErrorTextureNotBound),
    CODE(cudaErrorSynchronizationError),
    CODE(cudaErrorInvalidFilterSetting),
    CODE(cudaErrorInvalidNormSetting),
    CODE(cudaErrorMixedDeviceExecution),
    CODE(cudaErrorNotYetImplemented),
    CODE(cudaErrorMemoryValueTooLarge),
    CODE(cudaErrorStubLibrary),
    CODE(cudaErrorInsufficientDriver),
    CODE(cudaErrorCallRequiresNewerDriver),
    CODE(cudaErrorInvalidSurface),
    CODE(cudaErrorDuplicateVariableName),
    CODE(cudaErrorDuplicateTextureName),
    CODE(cudaErrorDuplicateSurfaceName),
    CODE(cudaErrorDevicesUnavailable),
    CODE(cudaErrorIncompatibleDriverContext),
    TEXT(cudaErrorMissingConfiguration, "__global__ function call is not configured"),
    CODE(cudaErrorPriorLaunchFailure),
    CODE(cudaErrorLaunchMaxDepthExceeded),
    CODE(cudaErrorLaunchFileScopedTex),
    CODE(cudaErrorLaunchFileScopedSurf),
    CODE(cudaErrorSyncDepthExceeded),
    CODE(cudaErrorLaunchPendingCountExceeded),
    TEXT(cudaErrorInvalidDeviceFunction, "invalid device function"),
    TEXT(cudaErrorNoDevice, "no CUDA-capable device is detected"),
    TEXT(cudaErrorInvalidDevice, "invalid device ordinal"),
    CODE(cudaErrorDeviceNotLicensed),
    CODE(cudaErrorSoftwareValidityNotEstablished),
    CODE(cudaErrorStartupFailure),
    TEXT(cudaErrorInvalidKernelImage, "device kernel image is invalid"),
    CODE(cudaErrorDeviceUninitialized),
    CODE(cudaErrorMapBufferObjectFailed),
    CODE(cudaErrorUnmapBufferObjectFailed),
    CODE(cudaErrorArrayIsMapped),
    CODE(cudaErrorAlreadyMapped),
    TEXT(cudaErrorNoKernelImageForDevice,
         "no kernel image is available for execution on the device"),
    CODE(cudaErrorAlreadyAcquired),
    CODE(cudaErrorNotMapped),
    CODE(cudaErrorNotMappedAsArray),
    CODE(cudaErrorNotMappedAsPointer),
    CODE(cudaErrorECCUncorrectable),
    TEXT(cudaErrorUnsupportedLimit, "limit is not supported on this architecture"),
    CODE(cudaErrorDeviceAlreadyInUse),
    CODE(cudaErrorPeerAccessUnsupported),
    TEXT(cudaErrorInvalidPtx, "a PTX JIT compilation failed"),
    CODE(cudaErrorInvalidGraphicsContext),
    CODE(cudaErrorNvlinkUncorrectable),
    CODE(cudaErrorJitCompilerNotFound),
    CODE(cudaErrorUnsupportedPtxVersion),
    CODE(cudaErrorJitCompilationDisabled),
    CODE(cudaErrorUnsupportedExecAffinity),
    CODE(cudaErrorUnsupportedDevSideSync),
    CODE(cudaErrorContained),
    CODE(cudaErrorInvalidSource),
    CODE(cudaErrorFileNotFound),
    CODE(cudaErrorSharedObjectSymbolNotFound),
    CODE(cudaErrorSharedObjectInitFailed),
    CODE(cudaErrorOperatingSystem),
    TEXT(cudaErrorInvalidResourceHandle, "invalid resource handle"),
    TEXT(cudaErrorIllegalState, "the operation cannot be performed in the present state"),
    CODE(cudaErrorLossyQuery),
    TEXT(cudaErrorSymbolNotFound, "named symbol not found"),
    TEXT(cudaErrorNotReady, "device not ready"),
    TEXT(cudaErrorIllegalAddress, "an illegal memory access was encountered"),
    TEXT(cudaErrorLaunchOutOfResources, "too many resources requested for launch"),
    TEXT(cudaErrorLaunchTimeout, "the launch timed out and was terminated"),
    CODE(cudaErrorLaunchIncompatibleTexturing),
    CODE(cudaErrorPeerAccessAlreadyEnabled),
    CODE(cudaErrorPeerAccessNotEnabled),
    CODE(cudaErrorSetOnActiveProcess),
    CODE(cudaErrorContextIsDestroyed),
    TEXT(cudaErrorAssert, "device-side assert triggered"),
    CODE(cudaErrorTooManyPeers),
    TEXT(cudaErrorHostMemoryAlreadyRegistered,
         "part or all of the requested memory range is already mapped"),
    TEXT(cudaErrorHostMemoryNotRegistered,
         "pointer does not correspond to a registered memory region"),
    CODE(cudaErrorHardwareStackError),
    TEXT(cudaErrorIllegalInstruction, "an illegal instruction was encountered"),
    TEXT(cudaErrorMisalignedAddress, "misaligned address"),
    CODE(cudaErrorInvalidAddressSpace),
    CODE(cudaErrorInvalidPc),
    TEXT(cudaErrorLaunchFailure, "unspecified launch failure"),
    TEXT(cudaErrorCooperativeLaunchTooLarge, "too many blocks in cooperative launch"),
    CODE(cudaErrorTensorMemoryLeak),
    TEXT(cudaErrorNotPermitted, "operation not permitted"),
    TEXT(cudaErrorNotSupported, "operation not supported"),
    CODE(cudaErrorSystemNotReady),
    CODE(cudaErrorSystemDriverMismatch),
    CODE(cudaErrorCompatNotSupportedOnDevice),
    CODE(cudaErrorMpsConnectionFailed),
    CODE(cudaErrorMpsRpcFailure),
    CODE(cudaErrorMpsServerNotReady),
    CODE(cudaErrorMpsMaxClientsReached),
    CODE(cudaErrorMpsMaxConnectionsReached),
    CODE(cudaErrorMpsClientTerminated),
    CODE(cudaErrorCdpNotSupported),
    CODE(cudaErrorCdpVersionMismatch),
    TEXT(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing"),
    TEXT(cudaErrorStreamCaptureInvalidated,
         "operation failed due to a previous error during capture"),
    TEXT(cudaErrorStreamCaptureMerge,
         "operation would result in a merge of separate capture sequences"),
    TEXT(cudaErrorStreamCaptureUnmatched, "capture was not ended in the same stream as it began"),
    TEXT(cudaErrorStreamCaptureUnjoined, "capturing stream has unjoined work"),
    TEXT(cudaErrorStreamCaptureIsolation,
         "dependency created on uncaptured work in another stream"),
    TEXT(cudaErrorStreamCaptureImplicit,
         "operation would make the legacy stream depend on a capturing blocking stream"),
    TEXT(cudaErrorCapturedEvent,
         "operation not permitted on an event last recorded in a capturing stream"),
    TEXT(cudaErrorStreamCaptureWrongThread,
         "attempt to terminate a thread-local capture sequence from another thread"),
    CODE(cudaErrorTimeout),
    CODE(cudaErrorGraphExecUpdateFailure),
    CODE(cudaErrorExternalDevice),
    TEXT(cudaErrorInvalidClusterSize,
         "a kernel launch error has occurred due to cluster misconfiguration"),
    CODE(cudaErrorFunctionNotLoaded),
    CODE(cudaErrorInvalidResourceType),
    CODE(cudaErrorInvalidResourceConfiguration),
    TEXT(cudaErrorUnknown, "unknown error"),
    CODE(cudaErrorApiFailureBase),
};
#undef CODE
#undef TEXT

const ErrorFacts* facts(cudaError_t error) {
  for (const ErrorFacts& e : kErrors)
    if (e.code == error) return &e;
  return nullptr;
}

cudaError_t last_error_or_fault() {
  Session& s = session();
  std::lock_guard lock(s.mutex);
  const cudaError_t fault = s.surfaced_fault();
  return fault == cudaSuccess ? last_error() : fault;
}

}  // namespace
}  // namespace ptxsim::runtime

using namespace ptxsim::runtime;

extern "C" {

const char* cudaGetErrorName(cudaError_t error) {
  const ErrorFacts* e = facts(error);
  return e ? e->name : "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t error) {
  const ErrorFacts* e = facts(error);
  return e ? e->text : "unrecognized error code";
}

cudaError_t cudaPeekAtLastError() { return last_error_or_fault(); }

// A fault is not cleared by being read.
cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error_or_fault();
  last_error() = cudaSuccess;
  return error;
}

}  // extern "C"

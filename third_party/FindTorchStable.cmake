# SPDX-License-Identifier: Apache-2.0
# The headers of torch's stable C ABI, from the torch that this Python has installed. Defines
#   TorchStable::TorchStable   include path, feature level, and an empty libtorch.so to link against
#   TorchStable_VERSION
# Nothing of torch is needed at link time: `import torch` has loaded the real library by the time ours
# is. Under pip's build isolation torch is not importable, but it lies in the environment's own
# site-packages and headers are all that is wanted, so that place is searched too.
execute_process(
  COMMAND ${Python_EXECUTABLE} -c [[
import importlib.util, os, sysconfig
spec = importlib.util.find_spec("torch")
places = [os.path.dirname(spec.origin)] if spec and spec.origin else []
places += [os.path.join(sysconfig.get_path(key), "torch") for key in ("purelib", "platlib")]
found = next((p for p in places if os.path.exists(os.path.join(p, "version.py"))), "")
version = {}
if found:
    exec(open(os.path.join(found, "version.py")).read(), version)
print(found + ";" + version.get("__version__", ""))
]]
  OUTPUT_VARIABLE torch_found OUTPUT_STRIP_TRAILING_WHITESPACE)
list(GET torch_found 0 TorchStable_ROOT)
list(GET torch_found 1 TorchStable_VERSION)
if(NOT TorchStable_ROOT)
  message(FATAL_ERROR "warpweave: torch is not installed for ${Python_EXECUTABLE}; "
    "run `pip install torch` (2.10 or newer) first, then build again")
endif()
if(TorchStable_VERSION VERSION_LESS 2.10)
  message(FATAL_ERROR "warpweave: torch ${TorchStable_VERSION} is too old; install torch 2.10 or newer")
endif()
message(STATUS "torch headers: ${TorchStable_VERSION} in ${TorchStable_ROOT}")

file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/stub/torch.cpp CONTENT "")
add_library(torch_stub SHARED ${CMAKE_BINARY_DIR}/stub/torch.cpp)
set_target_properties(torch_stub PROPERTIES OUTPUT_NAME torch LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/stub)
target_link_options(torch_stub PRIVATE -nostdlib)

add_library(TorchStable::TorchStable INTERFACE IMPORTED)
target_include_directories(TorchStable::TorchStable SYSTEM INTERFACE ${TorchStable_ROOT}/include)
# The floor of the ABI: nothing newer than 2.10 may be used, whatever torch is installed.
target_compile_definitions(TorchStable::TorchStable INTERFACE TORCH_TARGET_VERSION=0x020a000000000000)
target_link_libraries(TorchStable::TorchStable INTERFACE torch_stub)
target_link_options(TorchStable::TorchStable INTERFACE -Wl,--no-as-needed)

set(TorchStable_FOUND TRUE)

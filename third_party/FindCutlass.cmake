# SPDX-License-Identifier: Apache-2.0
# The headers of CUTLASS 3.x from the PyPI package nvidia-cutlass of this Python. Defines
#   Cutlass::Cutlass   the include path and the flag that its headers need
#   Cutlass_VERSION
# CUTLASS_DIR may name a clone of the repository instead.
if(NOT CUTLASS_DIR)
  execute_process(
    COMMAND ${Python_EXECUTABLE} -c [[
import importlib.util, pathlib
spec = importlib.util.find_spec("cutlass_library")
roots = (pathlib.Path(p) / "source" for p in (spec.submodule_search_locations if spec else ()))
print(next((r for r in roots if (r / "include" / "cutlass" / "cutlass.h").exists()), ""))
]]
    OUTPUT_VARIABLE CUTLASS_DIR OUTPUT_STRIP_TRAILING_WHITESPACE)
endif()
if(NOT EXISTS "${CUTLASS_DIR}/include/cutlass/cutlass.h")
  set(Cutlass_FOUND FALSE)
  return()
endif()
add_library(Cutlass::Cutlass INTERFACE IMPORTED)
target_include_directories(Cutlass::Cutlass SYSTEM INTERFACE ${CUTLASS_DIR}/include)
target_compile_options(Cutlass::Cutlass INTERFACE --expt-relaxed-constexpr)
set(Cutlass_VERSION "")
foreach(part MAJOR MINOR PATCH)
  file(STRINGS ${CUTLASS_DIR}/include/cutlass/version.h line REGEX "^#define CUTLASS_${part} ")
  string(REGEX MATCH "[0-9]+" number "${line}")
  list(APPEND Cutlass_VERSION ${number})
endforeach()
list(JOIN Cutlass_VERSION . Cutlass_VERSION)
message(STATUS "CUTLASS: ${Cutlass_VERSION} in ${CUTLASS_DIR}")
set(Cutlass_FOUND TRUE)

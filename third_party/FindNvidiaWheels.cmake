# SPDX-License-Identifier: Apache-2.0
# nvcc from NVIDIA's PyPI packages. Defines
#   NvidiaWheels_ROOT   the toolkit's folder: bin/nvcc, include, lib, nvvm
# All of them unpack under the namespace package `nvidia`. pip's build isolation may spread that over
# several prefixes, so each is searched for the file that is wanted.
execute_process(
  COMMAND ${Python_EXECUTABLE} -c [[
import importlib.util, pathlib
spec = importlib.util.find_spec("nvidia")
roots = (pathlib.Path(p) / "cu13" for p in (spec.submodule_search_locations if spec else ()))
print(next((r for r in roots if (r / "bin" / "nvcc").exists()), ""))
]]
  OUTPUT_VARIABLE NvidiaWheels_ROOT OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
if(NOT NvidiaWheels_ROOT)
  message(FATAL_ERROR "warpweave: WARPWEAVE_CUDA=PYPI but ${Python_EXECUTABLE} has no nvidia-cuda-nvcc; "
    "build with pip's isolation, or install the packages that pyproject.toml lists for PYPI")
endif()
message(STATUS "CUDA toolkit from PyPI: ${NvidiaWheels_ROOT}")
set(NvidiaWheels_FOUND TRUE)

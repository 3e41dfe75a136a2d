# SPDX-License-Identifier: Apache-2.0
# WARPWEAVE_CUDA decides whether there is a target warpweave_cuda: libwarpweave_cuda.so, launchers with C
# names over raw pointers. It links no torch and no driver, so it is built and loaded without a GPU.

set_property(CACHE WARPWEAVE_CUDA PROPERTY STRINGS AUTO ON OFF PYPI)
if(NOT WARPWEAVE_CUDA MATCHES "^(AUTO|ON|OFF|PYPI)$")
  message(FATAL_ERROR "warpweave: WARPWEAVE_CUDA is '${WARPWEAVE_CUDA}'; supported: AUTO, ON, OFF, PYPI")
endif()
if(WARPWEAVE_CUDA STREQUAL "OFF")
  message(STATUS "CUDA kernels: none (WARPWEAVE_CUDA=OFF)")
  return()
endif()

if(WARPWEAVE_CUDA STREQUAL "PYPI")
  find_package(NvidiaWheels REQUIRED)
  set(CMAKE_CUDA_COMPILER ${NvidiaWheels_ROOT}/bin/nvcc)
  set(CMAKE_CUDA_FLAGS_INIT "-L${NvidiaWheels_ROOT}/lib")  # nvcc itself looks into lib64 only
else()
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    if(WARPWEAVE_CUDA STREQUAL "ON")
      message(FATAL_ERROR "warpweave: WARPWEAVE_CUDA=ON but there is no nvcc; "
        "install CUDA 12.8 or newer, set CUDACXX, or use WARPWEAVE_CUDA=PYPI")
    endif()
    message(STATUS "CUDA kernels: none (no nvcc found)")
    return()
  endif()
endif()

set(CMAKE_CUDA_ARCHITECTURES ${WARPWEAVE_CUDA_ARCHS})
if(WARPWEAVE_SIMULATION)  # PTX of what the simulator runs, beside the machine code
  list(TRANSFORM CMAKE_CUDA_ARCHITECTURES REPLACE "^(80|90a)-real$" "\\1")
endif()
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.8)
  message(FATAL_ERROR "warpweave: ${CMAKE_CUDA_COMPILER} is CUDA ${CMAKE_CUDA_COMPILER_VERSION}; "
    "needs 12.8 or newer, or WARPWEAVE_CUDA=OFF")
endif()
string(REPLACE "-real" "" cuda_archs "${WARPWEAVE_CUDA_ARCHS}")
string(REPLACE ";" " " cuda_archs "${cuda_archs}")
message(STATUS "CUDA kernels: nvcc ${CMAKE_CUDA_COMPILER_VERSION} for ${cuda_archs}")

set(CMAKE_CUDA_STANDARD 17)  # CMake 3.25 cannot ask nvcc for 20
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
add_library(warpweave_cuda_objects OBJECT csrc/core/cuda/launch.cu)
function(ww_cuda_objects target)
  target_include_directories(${target} PRIVATE csrc)
  target_compile_definitions(${target} PRIVATE WW_VERSION="${SKBUILD_PROJECT_VERSION}")
  target_compile_options(${target} PRIVATE -Xcompiler=-Wall,-Wextra
    $<$<BOOL:${WARPWEAVE_WERROR}>:-Werror=all-warnings>
    $<IF:$<BOOL:${WARPWEAVE_SIMULATION}>,--no-compress;-lineinfo,-Xfatbin=-compress-all>)
endfunction()
ww_cuda_objects(warpweave_cuda_objects)
set(cuda_objects $<TARGET_OBJECTS:warpweave_cuda_objects>)

# csrc/grouped_gemm/group_product_<name>.cu for what only some architectures have, those given, and for
# the simulator `ptx` whatever else is built.
function(ww_arch_product name ptx archs)
  if(WARPWEAVE_SIMULATION AND NOT ptx IN_LIST archs)
    list(APPEND archs ${ptx}-virtual)
    list(REMOVE_DUPLICATES archs)
  endif()
  if(archs)
    add_library(warpweave_${name}_objects OBJECT csrc/grouped_gemm/group_product_${name}.cu)
    set_target_properties(warpweave_${name}_objects PROPERTIES CUDA_ARCHITECTURES "${archs}")
    ww_cuda_objects(warpweave_${name}_objects)
    set(cuda_objects ${cuda_objects} $<TARGET_OBJECTS:warpweave_${name}_objects> PARENT_SCOPE)
    string(TOUPPER ${name} macro)
    set_property(SOURCE csrc/grouped_gemm/grouped_gemm_cuda.cu APPEND PROPERTY
      COMPILE_DEFINITIONS WW_${macro}_GROUP_PRODUCT)
  endif()
endfunction()
set(archs_89 ${CMAKE_CUDA_ARCHITECTURES})
list(FILTER archs_89 INCLUDE REGEX "^(89|9[0-9]|1[0-9][0-9])")
ww_arch_product(sm89 89 "${archs_89}")
set(archs_120a ${CMAKE_CUDA_ARCHITECTURES})
list(FILTER archs_120a INCLUDE REGEX "^120")
list(TRANSFORM archs_120a REPLACE "^120a?" "120a")  # FP4 is a feature of sm_120a, not of sm_120
ww_arch_product(sm120a 120a "${archs_120a}")

# csrc/grouped_gemm/<source>.cu on CUTLASS for one architecture, given as nvcc is to compile it; each
# takes 5 to 7 GB and a minute to compile. `otherwise` takes its place.
find_package(Cutlass)
function(ww_cutlass_product source archs otherwise)
  if(NOT archs)
    message(STATUS "CUDA ${source}: none (its architecture is not built for)")
  elseif(NOT Cutlass_FOUND)
    message(STATUS "CUDA ${source}: none, ${otherwise} takes its place "
      "(no CUTLASS; `pip install --no-deps nvidia-cutlass==4.2.0.0`)")
  else()
    add_library(warpweave_${source}_objects OBJECT csrc/grouped_gemm/${source}.cu)
    set_target_properties(warpweave_${source}_objects PROPERTIES CUDA_ARCHITECTURES "${archs}")
    target_link_libraries(warpweave_${source}_objects PRIVATE Cutlass::Cutlass)
    ww_cuda_objects(warpweave_${source}_objects)
    set(cutlass_used ${Cutlass_VERSION} PARENT_SCOPE)
    set(cuda_objects ${cuda_objects} $<TARGET_OBJECTS:warpweave_${source}_objects> PARENT_SCOPE)
    string(TOUPPER ${source} macro)
    set_property(SOURCE csrc/grouped_gemm/grouped_gemm_cuda.cu APPEND PROPERTY
      COMPILE_DEFINITIONS WW_${macro})
  endif()
endfunction()
set(archs_90a ${CMAKE_CUDA_ARCHITECTURES})
list(FILTER archs_90a INCLUDE REGEX "^90a")
ww_cutlass_product(group_product_sm90a "${archs_90a}" "sm_80's")
set(archs_100a ${CMAKE_CUDA_ARCHITECTURES})
list(FILTER archs_100a INCLUDE REGEX "^100a?(-|$)")
list(TRANSFORM archs_100a REPLACE "^100a?" "100a")  # tcgen05 is a feature of sm_100a, not of sm_100
ww_cutlass_product(block_scaled_sm100a "${archs_100a}" "the product with decoded rows")
ww_cutlass_product(block_scaled_sm120a "${archs_120a}" "group_product_sm120a")

add_library(warpweave_cuda MODULE ${cuda_objects})
target_link_options(warpweave_cuda PRIVATE ${WW_EXPORTS} -Wl,--gc-sections -Wl,--no-undefined)
set_target_properties(warpweave_cuda PROPERTIES LINKER_LANGUAGE CUDA CUDA_RUNTIME_LIBRARY Static)
install(TARGETS warpweave_cuda LIBRARY DESTINATION warpweave)

# The same objects for the simulator, libptxsim.so, which takes libcudart's place and is loaded before.
# An empty library of its name makes it a dependency, so that it comes before a libcudart of torch's.
if(WARPWEAVE_SIMULATION)
  file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/ptxsim.cpp CONTENT "")
  add_library(ptxsim SHARED ${CMAKE_BINARY_DIR}/ptxsim.cpp)
  add_library(warpweave_cuda_simulated MODULE ${cuda_objects})
  target_link_options(warpweave_cuda_simulated PRIVATE ${WW_EXPORTS} -Wl,--gc-sections -Wl,--no-as-needed)
  target_link_libraries(warpweave_cuda_simulated PRIVATE ptxsim)
  set_target_properties(warpweave_cuda_simulated PROPERTIES LINKER_LANGUAGE CUDA
    SKIP_BUILD_RPATH ON CUDA_RUNTIME_LIBRARY None OUTPUT_NAME warpweave_cuda
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR}/build/ptxsim)  # tests/ptxsim/build.py's
endif()

# For this one file, so that turning CUDA on or off compiles no other again.
set_property(SOURCE csrc/bindings/cuda_library.cpp APPEND PROPERTY
  COMPILE_DEFINITIONS WW_CUDA_ARCHS="${cuda_archs}" WW_CUTLASS="${cutlass_used}")

# SPDX-License-Identifier: Apache-2.0
# ww_op(<op> VECTOR|MATRIX [CUDA]): gathers the sources of a room. ww_finish(): builds the libraries.

set(WW_ISAS_VECTOR base avx2 avx512)
set(WW_ISAS_MATRIX ${WW_ISAS_VECTOR} avx512_bf16 amx_bf16)
set(WW_FLAGS_base -march=x86-64-v2)
set(WW_FLAGS_avx2 -march=x86-64-v3)
set(WW_FLAGS_avx512 -march=x86-64-v4 -mprefer-vector-width=512)
set(WW_FLAGS_avx512_bf16 ${WW_FLAGS_avx512} -mavx512bf16)
set(WW_FLAGS_amx_bf16 ${WW_FLAGS_avx512_bf16} -mamx-tile -mamx-bf16)

set(WW_WARNINGS -Wall -Wextra -Wpedantic -Wno-psabi)
if(WARPWEAVE_WERROR)
  list(APPEND WW_WARNINGS -Werror)
endif()
set(WW_HOST_SOURCES csrc/core/cpu.cpp csrc/core/parallel.cpp csrc/core/segments.cpp csrc/core/slots.cpp
  csrc/core/vector_math.cpp)
set(WW_CUDA_SOURCES "")
set(WW_ISA_OBJECTS "")

# csrc/<dir>/<stem>_cpu.inc once per ISA. Contraction is off: fma() in the source says where to fuse.
function(ww_isa_objects dir stem isas)
  foreach(isa IN LISTS isas)
    set(target ${stem}_${isa})
    set(source ${CMAKE_BINARY_DIR}/isa/${target}.cpp)
    file(CONFIGURE OUTPUT ${source} CONTENT "#include \"${dir}/${stem}_cpu.inc\"\n")
    add_library(${target} OBJECT ${source})
    target_include_directories(${target} PRIVATE csrc)
    target_compile_definitions(${target} PRIVATE WW_ISA=${isa})
    target_compile_options(${target} PRIVATE ${WW_FLAGS_${isa}} ${WW_WARNINGS} -Wno-unused-function
      -Wno-uninitialized -Wno-maybe-uninitialized  # GCC 12's own AVX-512 intrinsics trip these
     
      -ffp-contract=off -fno-exceptions -fno-math-errno -fno-lto)
    list(APPEND objects ${target})
  endforeach()
  set(WW_ISA_OBJECTS ${WW_ISA_OBJECTS} ${objects} PARENT_SCOPE)
endfunction()

macro(ww_op op kind)
  ww_isa_objects(${op} ${op} "${WW_ISAS_${kind}}")
  list(APPEND WW_HOST_SOURCES csrc/${op}/${op}.cpp csrc/bindings/${op}_op.cpp)
  if("CUDA" IN_LIST ARGN_${op} OR "${ARGN}" MATCHES "CUDA")
    list(APPEND WW_CUDA_SOURCES csrc/${op}/${op}_cuda.cu)
  endif()
endmacro()

function(ww_finish)
  ww_isa_objects(core vector_math "${WW_ISAS_VECTOR}")
  set(isa_objects "")
  foreach(target IN LISTS WW_ISA_OBJECTS)
    list(APPEND isa_objects $<TARGET_OBJECTS:${target}>)
  endforeach()

  pybind11_add_module(_native NO_EXTRAS csrc/bindings/module.cpp csrc/bindings/tensor.cpp
    csrc/bindings/cuda_library.cpp ${WW_HOST_SOURCES} ${isa_objects})
  target_include_directories(_native PRIVATE csrc)
  target_compile_options(_native PRIVATE -march=x86-64-v2 ${WW_WARNINGS})
  target_compile_definitions(_native PRIVATE
    WW_VERSION="${SKBUILD_PROJECT_VERSION}"
    WW_COMPILER="${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}"
    WW_TORCH_HEADERS="${TorchStable_VERSION}"
    WW_CUDA_ARCHS="${WW_CUDA_ARCHS_BUILT}"
    WW_WITH_CUDA=$<BOOL:${WW_CUDA_ARCHS_BUILT}>)
  target_link_libraries(_native PRIVATE TorchStable::TorchStable ${CMAKE_DL_LIBS})
  target_link_options(_native PRIVATE -Wl,--gc-sections -Wl,--exclude-libs,ALL)
  set_target_properties(_native PROPERTIES BUILD_WITH_INSTALL_RPATH ON INSTALL_RPATH "$ORIGIN/../torch/lib")
  install(TARGETS _native LIBRARY DESTINATION warpweave)
endfunction()

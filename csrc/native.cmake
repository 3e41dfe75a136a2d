# SPDX-License-Identifier: Apache-2.0
# The extension module _native, and ww_op(), which adds a room to it and to libwarpweave_cuda.so.

set(WW_ISAS_VECTOR base avx2 avx512)
set(WW_ISAS_MATRIX ${WW_ISAS_VECTOR} avx512_bf16 amx_bf16)
set(WW_ISAS_SHARED "")
set(WW_FLAGS_base -march=x86-64-v2)
set(WW_FLAGS_avx2 -march=x86-64-v3)
set(WW_FLAGS_avx512 -march=x86-64-v4 -mprefer-vector-width=512)
set(WW_FLAGS_avx512_bf16 ${WW_FLAGS_avx512} -mavx512bf16 -mavx512vnni -mavx512vbmi)
set(WW_FLAGS_amx_bf16 ${WW_FLAGS_avx512_bf16} -mamx-tile -mamx-bf16)

set(WW_EXPORTS -Wl,--version-script=${CMAKE_CURRENT_LIST_DIR}/exports.map)
set(WW_WARNINGS -Wall -Wextra -Wpedantic -Wno-psabi $<$<BOOL:${WARPWEAVE_WERROR}>:-Werror>)

pybind11_add_module(_native NO_EXTRAS
  csrc/bindings/module.cpp csrc/bindings/tensor.cpp csrc/bindings/cuda_library.cpp
  csrc/bindings/simulated_cuda.cpp csrc/bindings/weights.cpp csrc/core/cpu/cpu.cpp csrc/core/cpu/parallel.cpp
  csrc/core/cpu/segments.cpp csrc/core/cpu/slots.cpp csrc/core/cpu/vector_math.cpp)
target_include_directories(_native PRIVATE csrc)
target_compile_options(_native PRIVATE ${WW_FLAGS_base} ${WW_WARNINGS})
target_compile_definitions(_native PRIVATE
  WW_VERSION="${SKBUILD_PROJECT_VERSION}"
  WW_COMPILER="${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}"
  WW_TORCH_HEADERS="${TorchStable_VERSION}")
target_link_libraries(_native PRIVATE TorchStable::TorchStable ${CMAKE_DL_LIBS})
target_link_options(_native PRIVATE ${WW_EXPORTS} -Wl,--gc-sections)
set_target_properties(_native PROPERTIES BUILD_WITH_INSTALL_RPATH ON INSTALL_RPATH "$ORIGIN/../torch/lib")
install(TARGETS _native LIBRARY DESTINATION warpweave)

# The linker keeps one copy of a weak symbol, from whichever object comes first. From a per-ISA object
# that could be AVX-512 code in a baseline path, so the build stops if one defines any.
set(isa_objects $<TARGET_GENEX_EVAL:_native,$<TARGET_PROPERTY:_native,WW_ISA_OBJECTS>>)
add_custom_command(TARGET _native PRE_LINK
  COMMAND ${Python_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/check_isa_objects.py ${CMAKE_NM} ${isa_objects}
  COMMAND_EXPAND_LISTS VERBATIM)

# csrc/<dir>/<stem>_cpu.inc once per ISA. Contraction is off: fma() in the source says where to fuse.
function(ww_isa_objects dir stem)
  foreach(isa IN LISTS ARGN)
    set(target ${stem}_${isa})
    set(source ${CMAKE_BINARY_DIR}/isa/${target}.cpp)
    file(CONFIGURE OUTPUT ${source} CONTENT "#include \"${dir}/${stem}_cpu.inc\"\n")
    add_library(${target} OBJECT ${source})
    target_include_directories(${target} PRIVATE csrc)
    target_compile_definitions(${target} PRIVATE WW_ISA=${isa})
    target_compile_options(${target} PRIVATE ${WW_FLAGS_${isa}} ${WW_WARNINGS} -Wno-unused-function
      -Wno-uninitialized -Wno-maybe-uninitialized  # GCC 12's own AVX-512 intrinsics trip these
      -ffp-contract=off -fno-exceptions -fno-math-errno -fno-lto)
    target_sources(_native PRIVATE $<TARGET_OBJECTS:${target}>)
    set_property(TARGET _native APPEND PROPERTY WW_ISA_OBJECTS $<TARGET_OBJECTS:${target}>)
  endforeach()
endfunction()

function(ww_op op kind)
  cmake_parse_arguments(PARSE_ARGV 2 arg "CUDA" "" "")
  if(NOT DEFINED WW_ISAS_${kind} OR arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "ww_op(${ARGV}): expected ww_op(<op> VECTOR|MATRIX|SHARED [CUDA])")
  endif()
  ww_isa_objects(${op} ${op} ${WW_ISAS_${kind}})
  target_sources(_native PRIVATE csrc/${op}/${op}.cpp csrc/bindings/${op}_op.cpp)
  if(arg_CUDA AND TARGET warpweave_cuda_objects)
    target_sources(warpweave_cuda_objects PRIVATE csrc/${op}/${op}_cuda.cu)
  endif()
endfunction()

ww_isa_objects(core/cpu vector_math ${WW_ISAS_VECTOR})

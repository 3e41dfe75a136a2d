// SPDX-License-Identifier: Apache-2.0
// The extension module. Loading it, after torch, registers the ops; Python sees the host-side API
// here.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/cuda_library.h"
#include "bindings/simulated_cuda.h"
#include "core/cpu/cpu.h"
#include "core/cpu/parallel.h"
#include "core/cpu/vector_math.h"
#include "core/numerics.h"

namespace py = pybind11;

namespace ww {
namespace {

void torch_parallel_for(int64_t n, int64_t grain, RangeFn fn, void* ctx) {
  torch::stable::parallel_for(0, n, grain,
                              [&](int64_t begin, int64_t end) { fn(ctx, begin, end); });
}

py::list kernels() {
  int count;
  const KernelInfo* rows = registered_kernels(&count);
  py::list out;
  for (int i = 0; i < count; ++i) {
    py::dict row;
    row["op"] = rows[i].op, row["target"] = rows[i].target, row["dtypes"] = rows[i].dtypes;
    out.append(row);
  }
  for (const CudaKernelInfo& kernel : cuda_kernels()) {
    py::dict row;
    row["op"] = kernel.op, row["target"] = "cuda", row["dtypes"] = kernel.dtypes;
    row["variant"] = kernel.variant, row["when"] = kernel.when, row["arch"] = kernel.arch;
    row["registers"] = kernel.registers, row["shared_bytes"] = kernel.shared_bytes;
    row["local_bytes"] = kernel.local_bytes;
    out.append(row);
  }
  return out;
}

std::string cpu_kernel_for(const std::string& op) {
  int count;
  const KernelInfo* rows = registered_kernels(&count);
  std::string best;  // rows of an op come lowest ISA first, and the first one runs everywhere
  for (int i = 0; i < count; ++i)
    if (op == rows[i].op && rows[i].isa <= int(cpu_isa())) best = rows[i].target;
  WW_CHECK(!best.empty(), "kernel_for: unknown op '", op, "'");
  return best;
}

std::string kernel_for(const std::string& op, const std::string& device) {
  WW_CHECK(device == "cpu" || device == "cuda", "kernel_for: unknown device '", device,
           "'; supported: cpu, cuda");
  const std::string cpu = cpu_kernel_for(op);
  if (device == "cpu") return cpu;
  const std::string problem = is_simulating ? "" : cuda_info().problem;
  WW_CHECK(problem.empty(), "kernel_for: '", op, "' cannot run on cuda: ", problem);
  WW_CHECK(has_cuda_kernel(op), "kernel_for: '", op,
           "' has no CUDA kernel; supported devices: cpu");
  return "cuda:sm_" + std::to_string(newest_cuda_arch());  // an op may be made of others' kernels
}

py::list launches() {
  py::list out;
  for (const CudaLaunch& launch : cuda_launches()) {
    py::dict row;
    row["op"] = launch.op, row["variant"] = launch.variant, row["because"] = launch.because;
    out.append(row);
  }
  return out;
}

py::dict cuda_info_dict() {
  const CudaInfo info = cuda_info();
  py::dict out;
  out["built"] = info.built, out["loaded"] = info.loaded, out["archs"] = info.archs;
  out["cutlass"] = info.cutlass, out["device_count"] = info.device_count;
  out["problem"] = info.problem;
  return out;
}

void simulate(const std::string& library, uintptr_t begin, uintptr_t end) {
  simulate_cuda(library, {reinterpret_cast<decltype(Simulator::begin)>(begin),
                          reinterpret_cast<decltype(Simulator::end)>(end)});
}

py::dict build_info() {
  py::dict info;
  info["version"] = WW_VERSION;
  info["compiler"] = WW_COMPILER;
  info["torch_headers"] = WW_TORCH_HEADERS;
  info["torch_minimum"] = "2.10";
  info["cuda_archs"] = cuda_info().archs;
  return info;
}

using FloatArray = py::array_t<float, py::array::c_style | py::array::forcecast>;

FloatArray run_vector_math(const std::string& name, const FloatArray& x) {
  static constexpr const char* kNames[] = {"exp",  "log1p",       "softplus",   "sigmoid",
                                           "silu", "silu_coarse", "round_bf16", "round_f16"};
  for (int i = 0; i < int(std::size(kNames)); ++i) {
    if (name != kNames[i]) continue;
    FloatArray out(x.size());
    vector_math({VectorFn(i), x.data(), out.mutable_data(), int64_t(x.size())});
    return out;
  }
  fail("vector_math: unknown function '", name, "'");
}

template <typename T>
py::array encode_as(const FloatArray& x) {
  py::array_t<decltype(T::bits)> out(x.size());
  for (py::ssize_t i = 0; i < x.size(); ++i)
    out.mutable_data()[i] = from_float<T>(x.data()[i]).bits;
  return out;
}

template <typename T>
FloatArray decode_as(const py::array_t<decltype(T::bits), py::array::c_style>& codes) {
  FloatArray out(codes.size());
  for (py::ssize_t i = 0; i < codes.size(); ++i)
    out.mutable_data()[i] = to_float(T{codes.data()[i]});
  return out;
}

}  // namespace
}  // namespace ww

PYBIND11_MODULE(_native, m, py::mod_gil_not_used()) {
  using namespace ww;
  set_parallel_for(torch_parallel_for, [] { return int(torch::stable::get_num_threads()); });
  cpu_isa();  // a bad WARPWEAVE_CPU_ISA fails the import, not the first op

  m.doc() = "Host-side API of warpweave's kernels; importing it registers torch.ops.warpweave.";
  m.def("build_info", &build_info,
        "Version, compiler, torch headers and CUDA architectures of this build.");
  m.def(
      "cpu_isa", [] { return isa_name(cpu_isa()); },
      "The instruction set that CPU kernels use now.");
  m.def(
      "cpu_isas",
      [] {
        std::vector<std::string> names;
        for (int i = 0; i <= int(best_cpu_isa()); ++i) names.push_back(isa_name(Isa(i)));
        return names;
      },
      "The instruction sets this machine can run, lowest first.");
  m.def(
      "set_cpu_isa", [](const std::string& name) { set_cpu_isa(name.c_str()); }, py::arg("name"),
      "Use no instruction set above this one. ValueError if unknown or not supported here.");
  m.def("kernels", &kernels,
        "The registry: a dict for each compiled kernel, with at least its op and target.");
  m.def("kernel_for", &kernel_for, py::arg("op"), py::arg("device") = "cpu",
        "The target that a call will take. ValueError if it cannot run there, with the reason.");
  m.def("cuda_info", &cuda_info_dict,
        "Whether CUDA ops can run: built, loaded, archs, cutlass, device_count, problem.");
  m.def("launches", &launches,
        "The CUDA kernels that this thread launched since it last asked, and why those.");
  m.def("set_nvtx", &set_nvtx, py::arg("on"), "Whether every CUDA op is an NVTX range.");
  m.def("simulate_cuda", &simulate, py::arg("library"), py::arg("begin") = 0, py::arg("end") = 0,
        "For tests: CPU tensors go to the CUDA kernels of this library; with '' no more.");

  py::module_ numerics =
      m.def_submodule("numerics", "Scalar and vector numerics of the kernels, for tests.");
  numerics.def("vector_math", &run_vector_math, py::arg("name"), py::arg("x"));
  numerics.def("encode_bf16", &encode_as<bf16_t>);
  numerics.def("encode_f16", &encode_as<f16_t>);
  numerics.def("encode_e4m3", &encode_as<e4m3_t>);
  numerics.def("encode_e2m1", &encode_as<e2m1_t>);
  numerics.def("decode_bf16", &decode_as<bf16_t>);
  numerics.def("decode_f16", &decode_as<f16_t>);
  numerics.def("decode_e4m3", &decode_as<e4m3_t>);
  numerics.def("decode_e2m1", &decode_as<e2m1_t>);
}

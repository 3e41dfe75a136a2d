// SPDX-License-Identifier: Apache-2.0
#include "runtime/direct.h"

namespace ptxsim::runtime {
namespace {

// Never destroyed, as the session that its modules belong to.
std::vector<std::unique_ptr<LoadedModule>>& modules() {
  static auto& instance = *new std::vector<std::unique_ptr<LoadedModule>>;
  return instance;
}

}  // namespace

int load_direct(const char* ptx, const std::string& name) {
  modules().push_back(session().simulator().load(ptx, name));
  return int(modules().size()) - 1;
}

void launch_direct(int module, const std::string& kernel, dim3 grid, dim3 block, dim3 cluster,
                   size_t dynamic_shared, const std::vector<uint8_t>& parameters) {
  Simulator& simulator = session().simulator();
  KernelEntry entry{nullptr, nullptr, kernel, modules().at(size_t(module))->kernel(kernel), {}};
  if (!entry.kernel) throw std::invalid_argument("the module has no kernel '" + kernel + "'");
  const KernelAttributes& attributes = simulator.attributes(*entry.kernel);
  if (parameters.size() != attributes.parameter_bytes)
    throw std::invalid_argument("'" + kernel + "' takes " +
                                std::to_string(attributes.parameter_bytes) +
                                " bytes of parameters, not " + std::to_string(parameters.size()));
  entry.set.max_dynamic_shared =
      simulator.device().shared_per_block_optin - int(attributes.shared_bytes);
  entry.set.non_portable_cluster = true;
  LaunchOptions options;
  options.cluster = cluster;
  options.has_cluster = dim3(cluster).x * cluster.y * cluster.z != 1;
  const LaunchConfig config = checked_config(entry, grid, block, dynamic_shared, options);
  const size_t before = simulator.reports().size();
  if (simulator.launch(*entry.kernel, config, parameters)) return;
  std::string why = "the kernel faulted";
  for (size_t i = before; i < simulator.reports().size(); ++i)
    if (simulator.reports()[i].is_fault) why = simulator.reports()[i].describe();
  throw std::runtime_error(why);
}

void unload_direct_modules() { modules().clear(); }

}  // namespace ptxsim::runtime

// SPDX-License-Identifier: Apache-2.0
// Blocks that cannot notice one another run in parts, on several host threads. How a launch is cut
// depends on nothing but its grid, and each part has a random stream of its own, so that results
// and reports are the same on every machine. Parts race if they touch the same byte of global
// memory and one writes, for nothing orders them; that is looked for at the end.
#include <atomic>
#include <thread>

#include "checks/races.h"
#include "counters/counters.h"
#include "engine/launch.h"

namespace ptxsim {
namespace {

constexpr uint64_t kParts = 4;

struct Part {
  Counters counters;
  std::string printed;
  std::unique_ptr<RaceChecker> races;
  std::unique_ptr<Launch> launch;
  bool ok = false;
  std::exception_ptr error;
};

}  // namespace

bool Launch::run_in_parts() {
  const uint64_t count = std::min(kParts, clusters());
  if (count < 2 || config.cooperative || !programs.blocks_are_independent()) return run();
  std::vector<Part> all(count);
  for (uint64_t i = 0; i < count; ++i) {
    Part& p = all[i];
    if (races) p.races = make_race_checker(uint32_t(i));
    p.launch.reset(new Launch{programs, kernel, id, config, parameters, memory, device, options,
                              schedule, &p.counters, p.races.get()});
    p.launch->schedule.random = Random(schedule.random.next());
    p.launch->shared_bytes = shared_bytes, p.launch->printed = &p.printed;
    p.launch->resident_limit = std::max<uint64_t>(1, resident_limit / count);
    p.launch->part = i, p.launch->parts = count;
  }
  // After a fault, what comes later does not count.
  std::atomic<uint64_t> next = 0, end = count;
  auto work = [&] {
    for (uint64_t i; (i = next++) < end;) {
      Part& p = all[i];
      try {
        p.ok = p.launch->run();
      } catch (...) {
        p.error = std::current_exception();
      }
      uint64_t before = end;
      while (!p.ok && before > i + 1 && !end.compare_exchange_weak(before, i + 1)) {
      }
    }
  };
  const uint64_t threads = options.host_threads ? options.host_threads
                                                : std::max(1u, std::thread::hardware_concurrency());
  std::vector<std::thread> helpers;
  for (uint64_t i = 1; i < std::min(threads, count); ++i) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();

  for (uint64_t i = 0; i < end; ++i) {
    Part& p = all[i];
    if (p.error) std::rethrow_exception(p.error);
    counters->add(p.counters), *printed += p.printed;
    instructions += p.launch->instructions, suppressed += p.launch->suppressed;
    if (races) races->add_part(*p.races, *this);
    for (Report& report : p.launch->reports) add(std::move(report));
  }
  return all[end - 1].ok;
}

}  // namespace ptxsim

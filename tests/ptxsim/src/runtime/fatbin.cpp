// SPDX-License-Identifier: Apache-2.0
#include "runtime/fatbin.h"

#include <cctype>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <tuple>

namespace ptxsim::runtime {
namespace {

// fatbinary_section.h
struct Wrapper {
  int32_t magic, version;
  const uint8_t* data;
  const void* filename_or_fatbins;
};
constexpr int32_t kWrapperMagic = 0x466243b1;

// The binary itself is not documented; this is what nvcc 13.0 writes.
struct Header {
  uint32_t magic;
  uint16_t version, header_bytes;
  uint64_t bytes;  // after the header
};
constexpr uint32_t kMagic = 0xba55ed50;

struct Entry {
  uint16_t kind, version;
  uint32_t header_bytes;
  uint64_t bytes;         // after the entry's header
  uint32_t compressed_bytes, options_offset;
  uint16_t minor, major;  // of the PTX or ELF version
  uint32_t arch;
  uint32_t name_offset, name_bytes;
  uint64_t flags;
};
constexpr uint16_t kPtx = 1, kElf = 2;
constexpr uint64_t kArchSpecific = 0x100000, kFamilySpecific = 0x200000;

template <typename T>
T read(const uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

}  // namespace

std::string Target::name() const {
  return "sm_" + std::to_string(number) + (suffix ? std::string(1, suffix) : "");
}

std::vector<Image> read_fat_binary(const void* pointer) {
  const auto wrapper = read<Wrapper>(static_cast<const uint8_t*>(pointer));
  if (wrapper.magic != kWrapperMagic) throw std::runtime_error("not a fat binary");
  if (wrapper.version != 1)
    throw std::runtime_error("relocatable device code: compile without -rdc=true");
  const auto header = read<Header>(wrapper.data);
  if (header.magic != kMagic || header.version != 1)
    throw std::runtime_error("a fat binary of unknown version");
  std::vector<Image> images;
  const uint8_t *at = wrapper.data + header.header_bytes, *end = at + header.bytes;
  while (end - at >= ptrdiff_t(sizeof(Entry))) {
    const auto entry = read<Entry>(at);
    if (entry.header_bytes < sizeof(Entry) || entry.header_bytes > uint64_t(end - at) ||
        entry.bytes > uint64_t(end - at) - entry.header_bytes)
      throw std::runtime_error("a damaged fat binary");
    if (entry.kind != kPtx && entry.kind != kElf)
      throw std::runtime_error("a fat binary with an entry of kind " + std::to_string(entry.kind));
    Image image;
    image.is_ptx = entry.kind == kPtx;
    image.is_compressed = entry.compressed_bytes != 0;
    image.target.number = int(entry.arch);
    image.target.suffix =
        entry.flags & kArchSpecific ? 'a' : (entry.flags & kFamilySpecific ? 'f' : 0);
    if (image.is_ptx && !image.is_compressed) {
      const char* text = reinterpret_cast<const char*>(at + entry.header_bytes);
      image.text = std::string_view(text, strnlen(text, entry.bytes));
    }
    images.push_back(image);
    at += entry.header_bytes + entry.bytes;
  }
  return images;
}

// CUDA C++ Programming Guide, "Compute Capabilities", feature sets: baseline code runs on this and
// every newer capability, family code on the same major and this or a newer minor, architecture
// code on this one only.
bool runs_on(const Target& target, const Device& device) {
  const int number = device.major * 10 + device.minor;
  switch (target.suffix) {
    case 'a': return target.number == number;
    case 'f': return target.number / 10 == device.major && target.number <= number;
    default: return target.number <= number;
  }
}

const Image* choose_image(const std::vector<Image>& images, const Device& device) {
  const auto rank = [](const Target& t) {
    return std::tuple(t.number, t.suffix == 'a' ? 2 : (t.suffix == 'f' ? 1 : 0));
  };
  const Image* best = nullptr;
  for (const Image& image : images)
    if (image.is_ptx && runs_on(image.target, device) &&
        (!best || rank(best->target) < rank(image.target)))
      best = &image;
  return best;
}

}  // namespace ptxsim::runtime

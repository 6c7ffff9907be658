// Writes the weights of a golden from their list: pelagic_golden_weights LIST DIR (LIST is
// testdata/goldens/NAME/weights.json).
//
// The only place that knows the rule. make.py reads what this wrote, and weights.sha256 beside the list pins it to the
// byte. A list names a seed and, for each file, its tensors; "{0..15}" in a name stands for each of these numbers, the
// last such range counting fastest. Numbers come from one Random(seed), over files by name and tensors as listed, and
// lie evenly in mean +- half_width: F32 in 2^24 steps, so that one rounded to bfloat16 shows; BF16 the same, rounded.
//
// F8_E4M3 has mean 0, and scales of its own: every 128x128 block one of 24 bits, so that one taken from a neighbour
// shows, and the largest exponent that its codes have, from 3 to 15. The next smaller exponent is half as likely, and
// so on down to the numbers without one, which makes the values lie evenly again; with 3 one code in eight has none.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/bfloat16.h"
#include "base/test_values.h"
#include "graph/error.h"
#include "graph/json.h"
#include "graph/safetensors.h"

using namespace pelagic;
using test::Random;

namespace {

constexpr int kBlock = 128;

struct NamedTensor {
  std::string name, dtype;
  std::vector<int> shape;
  std::string bytes;
};

template <class T>
void append(std::string& bytes, T value) {
  static_assert(std::endian::native == std::endian::little);
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

std::vector<std::string> expanded(const std::string& name) {
  const std::size_t open = name.find('{');
  if (open == std::string::npos) return {name};
  int first = 0, last = 0, length = 0;
  if (std::sscanf(name.c_str() + open, "{%d..%d}%n", &first, &last, &length) != 2 || length == 0)
    throw Error(ErrorCode::checkpoint, name + ": not a range {FIRST..LAST}");
  std::vector<std::string> names;
  for (int i = first; i <= last; ++i) {
    const std::string tail = name.substr(open + static_cast<std::size_t>(length));
    for (const std::string& rest : expanded(tail)) names.push_back(name.substr(0, open) + std::to_string(i) + rest);
  }
  return names;
}

std::string floating_bytes(Random& random, bool bf16, int count, double mean, double half_width) {
  std::string bytes;
  for (int i = 0; i < count; ++i) {
    const int step = static_cast<int>(random.bits() >> 8) - (1 << 23);
    const float value = static_cast<float>(mean + half_width * (step * 0x1p-23));
    if (bf16) {
      append(bytes, f32_to_bf16(value));
    } else {
      append(bytes, value);
    }
  }
  return bytes;
}

// The codes of a tensor of 128x128 blocks, and their scales.
struct Fp8Bytes {
  std::string codes, scales;
};

Fp8Bytes fp8_bytes(Random& random, int rows, int columns, double half_width) {
  const int across = (columns + kBlock - 1) / kBlock, down = (rows + kBlock - 1) / kBlock;
  Fp8Bytes out;
  std::vector<int> top;
  for (int i = 0; i < down * across; ++i) {
    top.push_back(random.integer(3, 15));
    const std::uint32_t half_to_one = (1u << 23) + (random.bits() >> 9);
    // All numbers of exponent field t are below 2^(t-6).
    append(out.scales, static_cast<float>(std::ldexp(half_width * half_to_one, 6 - top.back() - 24)));
  }
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < columns; ++c) {
      const std::uint32_t bits = random.bits();
      const int exponent =
          top[static_cast<std::size_t>(r / kBlock * across + c / kBlock)] - std::countr_zero(bits >> 3 | 1u << 20);
      std::uint32_t code = static_cast<std::uint32_t>(std::max(exponent, 0)) << 3 | (bits & 7u);
      if (code == 0x7F) code = 0x7E;  // the one that is a NaN
      append(out.codes, static_cast<std::uint8_t>(code | (bits >> 31) << 7));
    }
  }
  return out;
}

void add_tensors(Random& random, const JsonField& entry, std::vector<NamedTensor>& tensors) {
  const std::string dtype = entry.at("dtype").string();
  const double mean = entry.at("mean").number(-1, 1), half_width = entry.at("half_width").number(0, 4);
  std::vector<int> shape;
  int count = 1;
  for (std::size_t i = 0; i < entry.at("shape").size(); ++i) {
    shape.push_back(static_cast<int>(entry.at("shape").element(i).integer(1, 1024)));
    count *= shape.back();
  }
  for (const std::string& name : expanded(entry.at("name").string())) {
    if (dtype == "F32" || dtype == "BF16") {
      tensors.push_back({name, dtype, shape, floating_bytes(random, dtype == "BF16", count, mean, half_width)});
    } else if (dtype == "F8_E4M3" && shape.size() == 2 && mean == 0) {
      Fp8Bytes bytes = fp8_bytes(random, shape[0], shape[1], half_width);
      tensors.push_back({name, dtype, shape, std::move(bytes.codes)});
      tensors.push_back({name + "_scale_inv",
                         "F32",
                         {(shape[0] + kBlock - 1) / kBlock, (shape[1] + kBlock - 1) / kBlock},
                         std::move(bytes.scales)});
    } else {
      entry.at("dtype").fail("F32, BF16 or, of a matrix with mean 0, F8_E4M3 expected");
    }
  }
}

void write_file(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream out(path, std::ios::binary);
  if (!(out << bytes).flush()) throw Error(ErrorCode::checkpoint, path.string() + " cannot be written");
}

// The widest types first and the header padded, so that every tensor is aligned, as in the files of the safetensors
// library.
std::string file_bytes(std::vector<NamedTensor> tensors) {
  const auto width = [](const NamedTensor& tensor) {
    return tensor.dtype == "F32" ? 4 : tensor.dtype == "BF16" ? 2 : 1;
  };
  std::stable_sort(tensors.begin(), tensors.end(), [&](const auto& a, const auto& b) { return width(a) > width(b); });
  std::string header = R"({"__metadata__":{"format":"pt"})", data;
  for (const NamedTensor& tensor : tensors) {
    std::string shape;
    for (const int extent : tensor.shape) shape += (shape.empty() ? "" : ",") + std::to_string(extent);
    header += ",\"" + tensor.name + "\":{\"dtype\":\"" + tensor.dtype + "\",\"shape\":[" + shape +
              "],\"data_offsets\":[" + std::to_string(data.size()) + "," +
              std::to_string(data.size() + tensor.bytes.size()) + "]}";
    data += tensor.bytes;
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  std::string bytes;
  append(bytes, std::uint64_t{header.size()});
  return bytes + header + data;
}

void write_weights(const std::filesystem::path& list, const std::filesystem::path& dir) {
  const Json json = parse_json(read_small_file(list, 1 << 20), list.string());
  const JsonField root(json, list.string());
  Random random(static_cast<std::uint32_t>(root.at("seed").integer(0, UINT32_MAX)));
  const Json::Object& files = root.at("files").object();
  std::string weight_map;
  std::size_t total = 0;
  for (const JsonMember& file : files) {
    std::vector<NamedTensor> tensors;
    const JsonField entries = root.at("files").at(file.key);
    for (std::size_t i = 0; i < entries.size(); ++i) add_tensors(random, entries.element(i), tensors);
    for (const NamedTensor& tensor : tensors) {
      weight_map += (weight_map.empty() ? "\"" : ",\"") + tensor.name + "\":\"" + file.key + "\"";
      total += tensor.bytes.size();
    }
    write_file(dir / file.key, file_bytes(std::move(tensors)));
  }
  if (files.size() > 1)
    write_file(dir / "model.safetensors.index.json",
               "{\"metadata\":{\"total_size\":" + std::to_string(total) + "},\"weight_map\":{" + weight_map + "}}\n");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: pelagic_golden_weights LIST DIR\n");
    return 2;
  }
  try {
    write_weights(argv[1], argv[2]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}

// Reading safetensors files, memory-mapped and checked before anything is believed.
//
// A file is: 8 bytes little-endian header length n, n bytes of JSON {"name": {"dtype", "shape", "data_offsets": [begin,
// end]}, ...}, then the tensors' bytes, back to back, offsets counted from there. A checkpoint is one such file, or
// several named by an index.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace pelagic {

// Element types that a model tensor may have; other safetensors types are known by size only and refused where a tensor
// is used.
enum class DType { f32, bf16, f16, f8_e4m3, i32, other };

struct Tensor {
  std::string name;
  std::string file;  // file name, for messages
  std::string dtype_name;
  DType dtype = DType::other;
  std::vector<int64_t> shape;
  std::span<const std::byte> data;  // inside the mapping; not necessarily aligned
};

// "[576, 7168]"
std::string shape_text(std::span<const int64_t> shape);

// One file, mapped read-only for the life of the object. The constructor checks everything: header length, JSON,
// dtypes, that each shape's product times the element size equals its bytes, and that the tensors cover the data
// exactly, without overlap or gap. Throws Error(checkpoint) naming file and tensor.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::vector<Tensor>& tensors() const { return tensors_; }

 private:
  void parse_header(const std::string& file);

  std::span<const std::byte> map_;
  std::vector<Tensor> tensors_;
};

// All tensors of a model folder: model.safetensors, or the shards that model.safetensors.index.json names.
class Checkpoint {
 public:
  // Throws Error(checkpoint): no weights in the folder, a shard missing, an index name not in its shard, a tensor in
  // two shards.
  explicit Checkpoint(const std::filesystem::path& dir);

  // nullptr if there is none of that name.
  const Tensor* find(std::string_view name) const;
  std::span<const Tensor* const> tensors() const { return all_; }
  uint64_t total_bytes() const { return total_bytes_; }

 private:
  void add(const std::filesystem::path& path);

  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::vector<const Tensor*> all_;
  std::unordered_map<std::string_view, const Tensor*> by_name_;
  uint64_t total_bytes_ = 0;
};

// The whole of a small text file. Throws Error(checkpoint) if it cannot be read or is larger than max_bytes.
std::string read_small_file(const std::filesystem::path& path, size_t max_bytes);

}  // namespace pelagic

#include "graph/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <set>

#include "graph/error.h"
#include "graph/json.h"

namespace pelagic {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors data is little-endian");

constexpr uint64_t kMaxHeaderBytes = 100u << 20;  // the limit of the reference implementation
constexpr size_t kMaxDimensions = 8;

struct DTypeInfo {
  std::string_view name;
  uint64_t bytes;
  DType dtype;
};

constexpr DTypeInfo kDTypes[] = {
    {"F32", 4, DType::f32},         {"BF16", 2, DType::bf16}, {"F16", 2, DType::f16},
    {"F8_E4M3", 1, DType::f8_e4m3}, {"I32", 4, DType::i32},   {"BOOL", 1, DType::other},
    {"U8", 1, DType::other},        {"I8", 1, DType::other},  {"F8_E5M2", 1, DType::other},
    {"F8_E8M0", 1, DType::other},   {"I16", 2, DType::other}, {"U16", 2, DType::other},
    {"U32", 4, DType::other},       {"F64", 8, DType::other}, {"I64", 8, DType::other},
    {"U64", 8, DType::other},
};

[[noreturn]] void fail(const std::string& what) { throw Error(ErrorCode::checkpoint, what); }

// An open regular file and its size; the descriptor closes itself.
class OpenFile {
 public:
  // O_NONBLOCK: a FIFO in place of the file must give an error, not wait for a writer.
  explicit OpenFile(const std::filesystem::path& path) : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
    if (fd_ < 0) fail(path.string() + " cannot be opened: " + std::strerror(errno));
    struct stat info{};
    if (::fstat(fd_, &info) != 0 || !S_ISREG(info.st_mode)) {
      ::close(fd_);
      fail(path.string() + " is not a regular file");
    }
    size_ = static_cast<uint64_t>(info.st_size);
  }
  ~OpenFile() { ::close(fd_); }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;

  int fd() const { return fd_; }
  uint64_t size() const { return size_; }

 private:
  int fd_;
  uint64_t size_ = 0;
};

Tensor parse_tensor(const JsonField& field, const std::string& name, const std::string& file,
                    std::span<const std::byte> data) {
  Tensor tensor;
  tensor.name = name;
  tensor.file = file;
  tensor.dtype_name = field.at("dtype").string();
  const auto known = std::find_if(std::begin(kDTypes), std::end(kDTypes),
                                  [&](const DTypeInfo& info) { return info.name == tensor.dtype_name; });
  if (known == std::end(kDTypes)) field.at("dtype").fail("is of an unknown type: " + tensor.dtype_name);
  tensor.dtype = known->dtype;

  const JsonField shape = field.at("shape");
  if (shape.size() > kMaxDimensions) shape.fail("has more than " + std::to_string(kMaxDimensions) + " dimensions");
  uint64_t bytes = known->bytes;
  for (size_t i = 0; i < shape.size(); ++i) {
    const int64_t extent = shape.element(i).integer(0, INT64_MAX);
    tensor.shape.push_back(extent);
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(extent), &bytes)) shape.fail("is too large");
  }

  const JsonField offsets = field.at("data_offsets");
  if (offsets.size() != 2) offsets.fail("must be [begin, end]");
  const int64_t size = static_cast<int64_t>(data.size());
  const int64_t begin = offsets.element(0).integer(0, INT64_MAX);
  const int64_t end = offsets.element(1).integer(begin, INT64_MAX);
  if (end > size) {
    offsets.fail("end at byte " + std::to_string(end) + ", but the file holds " + std::to_string(size) +
                 " bytes of tensors: it is cut short, or its header is wrong");
  }
  if (bytes != static_cast<uint64_t>(end - begin)) {
    offsets.fail("span " + std::to_string(end - begin) + " bytes, but " + tensor.dtype_name + " " +
                 shape_text(tensor.shape) + " takes " + std::to_string(bytes));
  }
  tensor.data = data.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
  return tensor;
}

// A shard's name must stay inside the model folder.
bool is_plain_file_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

}  // namespace

std::string shape_text(std::span<const int64_t> shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) {
  const std::string file = path.filename().string();
  const OpenFile open(path);
  if (open.size() < 8) fail(path.string() + " is too short to be a safetensors file: it is damaged, copy it again");
  void* address = ::mmap(nullptr, open.size(), PROT_READ, MAP_PRIVATE, open.fd(), 0);
  if (address == MAP_FAILED) fail(path.string() + " cannot be mapped: " + std::strerror(errno));
  map_ = {static_cast<const std::byte*>(address), open.size()};
  try {
    parse_header(file);
  } catch (...) {
    ::munmap(address, open.size());
    throw;
  }
}

SafetensorsFile::~SafetensorsFile() { ::munmap(const_cast<std::byte*>(map_.data()), map_.size()); }

void SafetensorsFile::parse_header(const std::string& file) {
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, map_.data(), 8);
  if (header_bytes > kMaxHeaderBytes || header_bytes > map_.size() - 8) {
    fail(file + ": the header says it has " + std::to_string(header_bytes) + " bytes, the file has " +
         std::to_string(map_.size()) + ": it is damaged, copy it again");
  }
  const std::string_view text(reinterpret_cast<const char*>(map_.data()) + 8, header_bytes);
  const std::span<const std::byte> data = map_.subspan(8 + header_bytes);
  const Json header = parse_json(text, file);
  const JsonField root(header, file);
  for (const JsonMember& member : root.object()) {
    if (member.key == "__metadata__") continue;
    tensors_.push_back(parse_tensor(JsonField(member.value, file + ": " + member.key), member.key, file, data));
  }

  // In order of their offsets the tensors must follow one another exactly, from the first data byte to the last. An
  // empty tensor shares its offset with the next one, hence the second key.
  std::vector<const Tensor*> order;
  for (const Tensor& tensor : tensors_) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const Tensor* a, const Tensor* b) {
    return std::pair(a->data.data(), a->data.size()) < std::pair(b->data.data(), b->data.size());
  });
  const std::byte* next = data.data();
  for (const Tensor* tensor : order) {
    if (tensor->data.data() < next) fail(file + ": " + tensor->name + " overlaps the tensor before it");
    if (tensor->data.data() > next) fail(file + ": unused bytes before " + tensor->name);
    next += tensor->data.size();
  }
  if (next != data.data() + data.size()) {
    fail(file + ": the tensors end " + std::to_string(data.data() + data.size() - next) +
         " bytes before the file does");
  }
}

Checkpoint::Checkpoint(const std::filesystem::path& dir) {
  const std::filesystem::path index_path = dir / "model.safetensors.index.json";
  const std::filesystem::path single_path = dir / "model.safetensors";
  std::error_code ignored;
  if (std::filesystem::exists(single_path, ignored)) {
    add(single_path);
  } else if (std::filesystem::exists(index_path, ignored)) {
    const std::string where = index_path.filename().string();
    const Json index = parse_json(read_small_file(index_path, kMaxHeaderBytes), where);
    const JsonField weight_map = JsonField(index, where).at("weight_map");
    std::set<std::string> shards;
    for (const JsonMember& member : weight_map.object()) {
      const std::string shard = weight_map.at(member.key).string();
      if (!is_plain_file_name(shard)) weight_map.at(member.key).fail("must be a file name in the same folder");
      if (!std::filesystem::exists(dir / shard, ignored)) {
        weight_map.at(member.key).fail("is " + shard + ", which is not in the folder");
      }
      if (shards.insert(shard).second) add(dir / shard);
    }
    for (const JsonMember& member : weight_map.object()) {
      const std::string& shard = std::get<std::string>(member.value.value);
      const Tensor* tensor = find(member.key);
      if (tensor == nullptr || tensor->file != shard) fail(where + ": " + member.key + " is not in " + shard);
    }
  }
  if (files_.empty()) {
    fail(dir.string() +
         " has no weights: it needs model.safetensors, or model.safetensors.index.json and the files that it names");
  }
}

void Checkpoint::add(const std::filesystem::path& path) {
  files_.push_back(std::make_unique<SafetensorsFile>(path));
  for (const Tensor& tensor : files_.back()->tensors()) {
    const auto [existing, is_new] = by_name_.emplace(tensor.name, &tensor);
    if (!is_new) fail(tensor.file + ": " + tensor.name + " is also in " + existing->second->file);
    all_.push_back(&tensor);
    total_bytes_ += tensor.data.size();
  }
}

const Tensor* Checkpoint::find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : found->second;
}

std::string read_small_file(const std::filesystem::path& path, size_t max_bytes) {
  const OpenFile open(path);
  if (open.size() > max_bytes) fail(path.string() + " is larger than " + std::to_string(max_bytes) + " bytes");
  std::string text(open.size(), '\0');
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t got = ::read(open.fd(), text.data() + done, text.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) fail(path.string() + " cannot be read: " + std::strerror(got < 0 ? errno : EIO));
    done += static_cast<size_t>(got);
  }
  return text;
}

}  // namespace pelagic

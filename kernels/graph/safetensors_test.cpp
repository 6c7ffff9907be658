#include "graph/safetensors.h"

#include <sys/stat.h>

#include "graph/test_checkpoint.h"

using namespace pelagic;
using namespace pelagic::test;

namespace {

// Two tensors: a F32 [2, 3] at [0, 24), b U8 [4] at [24, 28).
const std::string kHeader =
    R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"U8","shape":[4],"data_offsets":[24,28]}})";
const std::string kData(28, '\x01');

struct Fixture {
  TempFolder folder;
  std::filesystem::path file = folder.path() / "model.safetensors";

  void load(const std::string& bytes) {
    write_file(file, bytes);
    const SafetensorsFile loaded(file);
  }
  void load_header(const std::string& header) { load(safetensors_bytes(header, kData)); }
};

}  // namespace

TEST("a good file") {
  Fixture f;
  write_file(f.file, safetensors_bytes(kHeader + "   ", kData));
  const SafetensorsFile file(f.file);
  CHECK(file.tensors().size() == 2);
  CHECK(file.tensors()[0].name == "a" && file.tensors()[0].dtype == DType::f32 && file.tensors()[0].data.size() == 24);
  CHECK(shape_text(file.tensors()[0].shape) == "[2, 3]");
}

TEST("empty tensors and scalars are allowed") {
  Fixture f;
  f.load(safetensors_bytes(
      R"({"e":{"dtype":"F32","shape":[0,7],"data_offsets":[4,4]},"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})",
      "1234"));
}

TEST("every truncation is refused") {
  Fixture f;
  const std::string bytes = safetensors_bytes(kHeader, kData);
  for (std::size_t n = 0; n < bytes.size(); ++n) CHECK_ERROR(f.load(bytes.substr(0, n)), "model.safetensors");
  CHECK_ERROR(f.load(bytes + "x"), "end 1 bytes before the file");
}

TEST("header lengths that lie") {
  Fixture f;
  for (const std::uint64_t n : {std::uint64_t{0}, std::uint64_t{1}, kHeader.size() - 1, kHeader.size() + 29,
                                std::uint64_t{1} << 40, ~std::uint64_t{0}, ~std::uint64_t{0} - 7}) {
    CHECK_ERROR(f.load(length_prefix(n) + kHeader + kData), "model.safetensors");
  }
}

TEST("offsets, shapes and dtypes that lie, with the tensor's name") {
  Fixture f;
  const auto with = [&](const std::string& from, const std::string& to) { f.load_header(replaced(kHeader, from, to)); };
  CHECK_ERROR(with("[0,24]", "[0,25]"), "model.safetensors: a: data_offsets span 25 bytes, but F32 [2, 3] takes 24");
  CHECK_ERROR(with("[0,24]", "[24,0]"), "a: data_offsets[1]");
  CHECK_ERROR(with("[0,24]", "[-8,16]"), "a: data_offsets[0]");
  CHECK_ERROR(with("[0,24]", "[0,99999]"), "a: data_offsets end at byte 99999, but the file holds 28 bytes of tensors");
  CHECK_ERROR(with("[0,24]", "[0.0,24]"), "a: data_offsets[0]");
  CHECK_ERROR(with("[0,24]", "[0]"), "a: data_offsets");
  CHECK_ERROR(with("[24,28]", "[20,24]"), "b overlaps");
  CHECK_ERROR(with("\"shape\":[4],\"data_offsets\":[24,28]", "\"shape\":[3],\"data_offsets\":[25,28]"),
              "unused bytes before b");
  CHECK_ERROR(with("\"shape\":[4],\"data_offsets\":[24,28]", "\"shape\":[3],\"data_offsets\":[24,27]"),
              "end 1 bytes before");
  CHECK_ERROR(with("F32", "F33"), "a: dtype is of an unknown type: F33");
  CHECK_ERROR(with("F32", "BF16"), "BF16 [2, 3] takes 12");
  CHECK_ERROR(with("\"F32\"", "7"), "a: dtype must be a string");
  CHECK_ERROR(with("[2,3]", "[-2,-3]"), "a: shape[0]");
  CHECK_ERROR(with("[2,3]", "[4611686018427387904,4,6]"), "a: shape is too large");
  CHECK_ERROR(with("[2,3]", "[9223372036854775807,3]"), "a: shape is too large");
  CHECK_ERROR(with("[2,3]", "[2,3,1,1,1,1,1,1,1]"), "more than 8 dimensions");
  CHECK_ERROR(with("\"b\"", "\"a\""), "\"a\" twice");
  CHECK_ERROR(with("\"dtype\":\"F32\",", ""), "a: dtype is missing");
  CHECK_ERROR(f.load_header("[]"), "must be an object");
  CHECK_ERROR(f.load_header(std::string(5000, '[')), "deeper");
}

TEST("random damage to the header never crashes: it loads or gives an error") {
  Fixture f;
  Random random(1);
  const std::string good = safetensors_bytes(kHeader, kData);
  for (int round = 0; round < 3000; ++round) {
    std::string bytes = good;
    for (int i = random.integer(1, 4); i > 0; --i) {
      bytes[static_cast<std::size_t>(random.integer(0, static_cast<int>(8 + kHeader.size()) - 1))] =
          static_cast<char>(random.bits());
    }
    error_of([&] { f.load(bytes); });
  }
}

TEST("what is not a regular file") {
  Fixture f;
  CHECK_ERROR(SafetensorsFile(f.folder.path() / "none"), "cannot be opened");
  CHECK_ERROR(SafetensorsFile(f.folder.path()), "not a regular file");
  ::mkfifo((f.folder.path() / "fifo").c_str(), 0600);
  CHECK_ERROR(SafetensorsFile(f.folder.path() / "fifo"), "not a regular file");
}

TEST("shards by index") {
  const TempFolder folder;
  const auto index = [&](const std::string& map) {
    write_file(folder.path() / "model.safetensors.index.json", "{\"weight_map\":{" + map + "}}");
  };
  CHECK_ERROR(Checkpoint(folder.path()), "has no weights");
  write_file(folder.path() / "one", safetensors_bytes({{"a", {"U8", {2}, "xy"}}}));
  write_file(folder.path() / "two", safetensors_bytes({{"b", {"U8", {2}, "zw"}}}));

  index(R"("a":"one","b":"two")");
  const Checkpoint checkpoint(folder.path());
  CHECK(checkpoint.tensors().size() == 2 && checkpoint.total_bytes() == 4);
  CHECK(checkpoint.find("b") != nullptr && checkpoint.find("b")->file == "two");
  CHECK(checkpoint.find("c") == nullptr);

  index(R"("a":"one","b":"one")");
  CHECK_ERROR(Checkpoint(folder.path()), "b is not in one");
  index(R"("a":"two","b":"one")");
  CHECK_ERROR(Checkpoint(folder.path()), "a is not in two");
  index(R"("a":"one","b":"three")");
  CHECK_ERROR(Checkpoint(folder.path()), "weight_map.b is three, which is not in the folder");
  for (const char* name : {"", ".", "..", "../one", "/etc/passwd", "x/one"}) {
    index("\"a\":\"" + std::string(name) + "\"");
    CHECK_ERROR(Checkpoint(folder.path()), "weight_map.a must be a file name in the same folder");
  }
  write_file(folder.path() / "two", safetensors_bytes({{"a", {"U8", {2}, "zw"}}, {"b", {"U8", {2}, "zw"}}}));
  index(R"("a":"one","b":"two")");
  CHECK_ERROR(Checkpoint(folder.path()), "a is also in one");
  index("");
  CHECK_ERROR(Checkpoint(folder.path()), "has no weights");
  write_file(folder.path() / "model.safetensors.index.json", "{}");
  CHECK_ERROR(Checkpoint(folder.path()), "weight_map is missing");
}

TEST_MAIN

#include "graph/weights.h"

#include <cmath>
#include <cstring>

#include "backend/cpu/cpu_backend.h"
#include "graph/model.h"
#include "graph/test_checkpoint.h"
#include "graph/weight_tensor.h"

using namespace pelagic;
using namespace pelagic::test;

namespace {

void load(const TestTensors& tensors, const std::string& config = kTinyConfig) {
  const TempFolder folder;
  write_checkpoint(folder.path(), tensors, config);
  const Model model(folder.path(), make_cpu_backend(Isa::scalar, 1), KvDtype::float32, 2, 2, {});
}

// Rows of the only tensor "w" (and "w_scale_inv") as float32.
std::vector<float> read(const TestTensors& tensors) {
  const TempFolder folder;
  write_file(folder.path() / "model.safetensors", safetensors_bytes(tensors));
  const Checkpoint checkpoint(folder.path());
  const WeightTensor tensor(*checkpoint.find("w"), checkpoint.find("w_scale_inv"));
  std::vector<float> out(static_cast<std::size_t>(tensor.rows() * tensor.columns()));
  for (std::int64_t row = 0; row < tensor.rows(); ++row) tensor.read_row(row, out.data() + row * tensor.columns());
  return out;
}

std::string halves(const std::vector<std::uint16_t>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * 2);
}

}  // namespace

TEST("BF16 and F16 are widened exactly") {
  CHECK((read({{"w", {"BF16", {1, 3}, halves({0x3F80, 0xC049, 0x0001})}}}) ==
         std::vector<float>{1.0f, -3.140625f, 0x1p-133f}));
  const std::vector<float> f16 =
      read({{"w", {"F16", {7}, halves({0x3C00, 0xC248, 0x0001, 0x8000, 0x03FF, 0x7BFF, 0x0400})}}});
  CHECK((f16 == std::vector<float>{1.0f, -3.140625f, 0x1p-24f, -0.0f, 1023 * 0x1p-24f, 65504.0f, 0x1p-14f}));
  CHECK(std::signbit(f16[3]));
}

TEST("FP8 blocks take their scales, also at ragged edges") {
  // [130, 129]: code 0x38 is 1.0, so every value is its block's scale.
  const TestTensor weights{"F8_E4M3", {130, 129}, std::string(130 * 129, '\x38')};
  const std::vector<float> values = read({{"w", weights}, {"w_scale_inv", f32_tensor({2, 2}, {1, 2, 3, 4})}});
  CHECK(values[0] == 1 && values[127 * 129 + 127] == 1 && values[128] == 2 && values[128 * 129] == 3 &&
        values[129 * 129 + 128] == 4);
  CHECK_ERROR(read({{"w", weights}}), "w_scale_inv is missing");
  CHECK_ERROR(read({{"w", weights}, {"w_scale_inv", f32_tensor({2, 1}, {1, 2})}}),
              "w_scale_inv is F32 [2, 1], expected F32 [2, 2]");
}

TEST("FP8 rows can be had as they stand") {
  std::string codes;
  for (int i = 0; i < 130 * 129; ++i) codes += static_cast<char>(i % 0x7F);
  const auto raw = [&](float scale, int row) {
    const TempFolder folder;
    write_file(folder.path() / "model.safetensors",
               safetensors_bytes(TestTensors{{"w", {"F8_E4M3", {130, 129}, codes}},
                                             {"w_scale_inv", f32_tensor({2, 2}, {1, 2, scale, 4})}}));
    const Checkpoint checkpoint(folder.path());
    const WeightTensor tensor(*checkpoint.find("w"), checkpoint.find("w_scale_inv"));
    std::vector<std::uint8_t> got(129);
    std::vector<float> scales(2);
    tensor.read_fp8_row(row, got.data(), scales.data());
    CHECK(tensor.is_fp8() && std::memcmp(got.data(), codes.data() + row * 129, 129) == 0);
    return scales;
  };
  CHECK((raw(3, 127) == std::vector<float>{1, 2}));
  CHECK((raw(3, 128) == std::vector<float>{3, 4}));
  CHECK_ERROR(raw(INFINITY, 128), "w holds a NaN or infinity in row 128");
  CHECK_ERROR(raw(1e36f, 128), "w holds");  // 448 times it is infinite
  CHECK((raw(INFINITY, 0) == std::vector<float>{1, 2}));
  codes[128 * 129 + 5] = '\xFF';
  CHECK_ERROR(raw(3, 128), "w holds a NaN or infinity in row 128");
}

TEST("a NaN or infinity is damage") {
  CHECK_ERROR(read({{"w", f32_tensor({2, 2}, {1, 2, 3, std::nanf("")})}}), "w holds a NaN or infinity in row 1");
  CHECK_ERROR(read({{"w", {"BF16", {1, 1}, halves({0x7F80})}}}), "w holds");
  CHECK_ERROR(read({{"w", {"F16", {1, 1}, halves({0x7C00})}}}), "w holds");
  CHECK_ERROR(read({{"w", {"F8_E4M3", {1, 1}, "\x7F"}}, {"w_scale_inv", f32_tensor({1, 1}, {1})}}), "w holds");
}

TEST("a whole checkpoint loads; multi-token prediction layers are passed over") {
  TestTensors tensors = tiny_tensors();
  load(tensors);
  tensors["model.layers.3.eh_proj.weight"] = f32_tensor({1, 1}, {0});
  tensors["model.layers.3.mlp.experts.0.up_proj.weight"] = {"U8", {1}, "x"};
  tensors["model.layers.1.self_attn.rotary_emb.inv_freq"] = f32_tensor({2}, {1, 1});
  load(tensors);
}

TEST("tied embeddings need no head") {
  TestTensors tensors = tiny_tensors();
  tensors.erase("lm_head.weight");
  CHECK_ERROR(load(tensors), "lm_head.weight is missing");
  load(tensors, replaced(kTinyConfig, "\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true"));
}

TEST("every missing tensor is named") {
  for (const auto& [name, tensor] : tiny_tensors()) {
    TestTensors damaged = tiny_tensors();
    damaged.erase(name);
    CHECK_ERROR(load(damaged), name + " is missing");
  }
}

TEST("every tensor of another shape is named, with both shapes") {
  for (const auto& [name, tensor] : tiny_tensors()) {
    TestTensors damaged = tiny_tensors();
    damaged[name].shape.insert(damaged[name].shape.begin(), 1);
    CHECK_ERROR(load(damaged), name + " has shape [1, ");
  }
}

TEST("wrong dtypes and unexpected tensors are named") {
  TestTensors tensors = tiny_tensors();
  TestTensor& gate = tensors["model.layers.1.mlp.gate.weight"];
  gate.dtype = "I32";
  CHECK_ERROR(load(tensors), "model.layers.1.mlp.gate.weight is I32; supported are F32");
  gate.dtype = "F8_E4M3";
  gate.bytes.resize(8 * 24);
  CHECK_ERROR(load(tensors), "model.layers.1.mlp.gate.weight_scale_inv is missing");
  for (const char* name :
       {"model.layers.1.self_attn.o_proj.bias", "model.layers.1.mlp.experts.8.up_proj.weight", "other"}) {
    TestTensors extra = tiny_tensors();
    extra[name] = f32_tensor({1}, {0});
    CHECK_ERROR(load(extra), std::string(name) + " is unexpected");
  }
}

TEST_MAIN

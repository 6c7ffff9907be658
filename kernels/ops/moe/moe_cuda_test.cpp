// CUDA sort, dispatch and combine against moe.cpp and moe_ref.cpp: equal places, equal bits, in both layouts.
#include <algorithm>
#include <bit>
#include <string>
#include <string_view>
#include <vector>

#include "cuda/device_buffer.h"
#include "cuda/row_reference.h"
#include "cuda/test.h"
#include "ops/moe/moe.h"
#include "ops/moe/moe_cuda.h"

namespace pelagic {
namespace {

constexpr int kWidth = 1032;  // no multiple of a block of threads
constexpr int kScales = (kWidth + kFp8Block - 1) / kFp8Block;

struct Case {
  const char* name;
  int rows, top_k, experts;
  int replicas;      // the first expert has this many slots, the last one too; 1: slot s holds expert s
  int row_capacity;  // 0: contiguous
  bool skewed;       // all rows choose the same experts
  bool shared;
  int bad_every = 0;  // every so many entries have no expert
};

std::vector<std::int32_t> make_ids(const Case& c) {
  std::vector<std::int32_t> ids;
  for (int row = 0; row < c.rows; ++row) {
    std::vector<std::pair<std::uint64_t, int>> order;
    for (int e = 0; e < c.experts; ++e) order.push_back({random_bits(c.skewed ? 1 : 2 + row, e), e});
    std::sort(order.begin(), order.end());
    for (int rank = 0; rank < c.top_k; ++rank) ids.push_back(order[rank].second);
  }
  return ids;
}

SlotTable make_table(const Case& c) {
  std::vector<std::int32_t> logical;
  for (int e = 0; e < c.experts; ++e) logical.push_back(e);
  for (int i = 1; i < c.replicas; ++i) {
    logical.push_back(0);
    logical.insert(logical.begin() + 1, c.experts - 1);
  }
  return SlotTable(logical, c.experts);
}

void check(const Case& c) {
  const std::vector<std::int32_t> ids = make_ids(c);
  const SlotTable table = make_table(c);
  const int slots = table.slots();
  const bool masked = c.row_capacity > 0;
  MoeBatch batch;
  build_moe_batch(table, ids.data(), c.rows, c.top_k, batch);
  // What is left out, and places in the masked layout.
  std::vector<std::int32_t> device_ids = ids, positions(ids.size()), counts(slots, 0), offsets = {0};
  for (std::size_t i = 0; i < ids.size(); ++i)
    if (c.bad_every > 0 && i % c.bad_every == 3) device_ids[i] = i % 2 == 0 ? -1 : c.experts;
  bool no_room = false;
  for (int slot = 0; slot < slots; ++slot) {
    std::int32_t count = 0;
    for (std::int32_t e = batch.slot_offsets[slot]; e < batch.slot_offsets[slot + 1]; ++e) {
      const std::size_t i = static_cast<std::size_t>(batch.entries[e].row) * c.top_k + batch.entries[e].rank;
      const bool bad = device_ids[i] != ids[i];
      const bool over = masked && count >= c.row_capacity;
      no_room = no_room || (over && !bad);
      positions[i] = bad || over ? -1 : masked ? slot * c.row_capacity + count : offsets.back() + count;
      if (!bad) ++count;
    }
    offsets.push_back(offsets.back() + count);
    counts[slot] = masked ? std::min(count, c.row_capacity) : count;
  }
  std::vector<std::int32_t> slot_begin = {0}, slots_by_expert;
  for (int e = 0; e < c.experts; ++e) {
    for (const std::int32_t slot : table.slots_of(e)) slots_by_expert.push_back(slot);
    slot_begin.push_back(static_cast<std::int32_t>(slots_by_expert.size()));
  }
  const DeviceBuffer<std::int32_t> d_ids(device_ids), d_begin(slot_begin), d_by_expert(slots_by_expert),
      errors(std::vector<std::int32_t>(kMoeErrors, 0));
  DeviceBuffer<std::int32_t> d_positions(ids.size() + 1), d_counts(slots), d_offsets(slots + 1);
  d_positions.fill_bytes(0x77);
  d_counts.fill_bytes(0x77);
  d_offsets.fill_bytes(0x77);
  const MoeSortCudaCall sort = {.rows = c.rows,
                                .top_k = c.top_k,
                                .experts = c.experts,
                                .slots = slots,
                                .row_capacity = c.row_capacity,
                                .ids = d_ids.get(),
                                .slot_begin = c.replicas == 1 ? nullptr : d_begin.get(),
                                .slots_by_expert = d_by_expert.get(),
                                .positions = d_positions.get(),
                                .slot_counts = d_counts.get(),
                                .slot_offsets = d_offsets.get(),
                                .errors = errors.get()};
  test::run_from_graph([&](cudaStream_t stream) { PELAGIC_CUDA(moe_sort_cuda(sort, stream)); });
  std::vector<std::int32_t> got_positions = d_positions.download();
  PELAGIC_EXPECT(got_positions.back() == 0x77777777, "%s: wrote past the positions", c.name);
  got_positions.pop_back();
  PELAGIC_EXPECT(got_positions == positions, "%s: positions", c.name);
  PELAGIC_EXPECT(d_counts.download() == counts, "%s: counts", c.name);
  PELAGIC_EXPECT(d_offsets.download() == offsets, "%s: offsets", c.name);
  const std::vector<std::int32_t> noted = errors.download();
  PELAGIC_EXPECT((noted[kMoeBadExpert] == 1) == (device_ids != ids) && (noted[kMoeNoRoom] == 1) == no_room,
                 "%s: errors %d %d", c.name, noted[0], noted[1]);
  if (got_positions != positions) return;

  // Dispatch: e4m3 rows with scales, and bf16 rows without.
  const int out_rows = masked ? slots * c.row_capacity : static_cast<int>(ids.size()) + 1;
  const std::int64_t ldx = kWidth + 8;
  const std::int64_t ld_scales = c.rows + 2, ld_out_scales = out_rows + 1;
  const std::vector<bfloat16_bits> x = random_bf16(3, static_cast<std::size_t>(c.rows + 1) * ldx);
  const std::vector<float> scales = random_f32(4, static_cast<std::size_t>(kScales * ld_scales));
  const DeviceBuffer<bfloat16_bits> d_x(x);
  const DeviceBuffer<float> d_scales(scales);
  DeviceBuffer<bfloat16_bits> out(static_cast<std::size_t>(out_rows) * kWidth);
  DeviceBuffer<float> out_scales(static_cast<std::size_t>(kScales * ld_out_scales));
  out.fill_bytes(0xFF);
  out_scales.fill_bytes(0xFF);
  const MoeDispatchCudaCall dispatch = {.rows = c.rows,
                                        .top_k = c.top_k,
                                        .row_bytes = kWidth * 2,
                                        .positions = d_positions.get(),
                                        .x = d_x.get(),
                                        .ldx_bytes = ldx * 2,
                                        .out = out.get(),
                                        .scale_blocks = kScales,
                                        .x_scales = d_scales.get(),
                                        .ld_x_scales = ld_scales,
                                        .out_scales = out_scales.get(),
                                        .ld_out_scales = ld_out_scales};
  test::run_from_graph([&](cudaStream_t stream) { PELAGIC_CUDA(moe_dispatch_cuda(dispatch, stream)); });
  std::vector<bfloat16_bits> expected(out.size(), 0xFFFF);
  std::vector<std::uint32_t> expected_scales(out_scales.size(), 0xFFFFFFFFu);
  for (std::size_t i = 0; i < positions.size(); ++i) {
    if (positions[i] < 0) continue;
    const std::size_t row = i / c.top_k;
    std::copy_n(x.begin() + row * ldx, kWidth, expected.begin() + static_cast<std::size_t>(positions[i]) * kWidth);
    for (int block = 0; block < kScales; ++block)
      expected_scales[block * ld_out_scales + positions[i]] =
          std::bit_cast<std::uint32_t>(scales[block * ld_scales + row]);
  }
  const std::vector<float> got_scales = out_scales.download();
  std::vector<std::uint32_t> got_scale_bits;
  for (const float f : got_scales) got_scale_bits.push_back(std::bit_cast<std::uint32_t>(f));
  PELAGIC_EXPECT(out.download() == expected, "%s: dispatched rows", c.name);
  PELAGIC_EXPECT(got_scale_bits == expected_scales, "%s: dispatched scales", c.name);

  // Combine. Rows that nobody has are NaN.
  std::vector<bfloat16_bits> expert_out(static_cast<std::size_t>(out_rows) * kWidth, 0xFFFF);
  std::vector<float> batch_out(ids.size() * kWidth, 0.0f);  // in the order of the CPU's batch
  for (std::size_t i = 0; i < ids.size(); ++i)
    for (int n = 0; n < kWidth; ++n) {
      const bfloat16_bits bits = f32_to_bf16(random_normal(5, i * kWidth + n));
      if (positions[i] < 0) continue;
      expert_out[static_cast<std::size_t>(positions[i]) * kWidth + n] = bits;
      batch_out[static_cast<std::size_t>(batch.position[i]) * kWidth + n] = bf16_to_f32(bits);
    }
  std::vector<float> weights = random_f32(6, ids.size());
  const DeviceBuffer<float> d_weights(weights);
  // A choice that is left out adds nothing: on the CPU 0 * 0.
  for (std::size_t i = 0; i < ids.size(); ++i)
    if (positions[i] < 0) weights[i] = 0.0f;
  const std::vector<bfloat16_bits> shared = random_bf16(7, static_cast<std::size_t>(c.rows) * ldx);
  const std::vector<float> shared_f32 = widened(shared);
  std::vector<float> expected_y(static_cast<std::size_t>(c.rows) * ldx, 0.0f);
  scalar::moe_combine({.batch = &batch,
                       .weights = weights.data(),
                       .top_k = c.top_k,
                       .expert_out = batch_out.data(),
                       .ld_expert_out = kWidth,
                       .shared = c.shared ? shared_f32.data() : nullptr,
                       .ld_shared = ldx,
                       .y = expected_y.data(),
                       .ldy = ldx,
                       .width = kWidth},
                      0, c.rows);
  const DeviceBuffer<bfloat16_bits> d_expert_out(expert_out), d_shared(shared);
  DeviceBuffer<float> y(static_cast<std::size_t>(c.rows + 1) * ldx);
  DeviceBuffer<bfloat16_bits> y_bf16(y.size());
  y.fill_bytes(0xFF);
  y_bf16.fill_bytes(0xFF);
  MoeCombineCudaCall combine = {.rows = c.rows,
                                .top_k = c.top_k,
                                .width = kWidth,
                                .positions = d_positions.get(),
                                .weights = d_weights.get(),
                                .expert_out = d_expert_out.get(),
                                .shared = c.shared ? d_shared.get() : nullptr,
                                .ld_shared = ldx,
                                .y = y.get(),
                                .y_type = RowType::float32,
                                .ldy = ldx};
  test::run_from_graph([&](cudaStream_t stream) { PELAGIC_CUDA(moe_combine_cuda(combine, stream)); });
  combine.y = y_bf16.get();
  combine.y_type = RowType::bfloat16;
  test::run_from_graph([&](cudaStream_t stream) { PELAGIC_CUDA(moe_combine_cuda(combine, stream)); });
  // A row alone, in the place of the first.
  DeviceBuffer<float> alone(kWidth);
  const int last = c.rows - 1;
  if (c.rows > 0) {
    combine.rows = 1;
    combine.positions += static_cast<std::ptrdiff_t>(last) * c.top_k;
    combine.weights += static_cast<std::ptrdiff_t>(last) * c.top_k;
    if (c.shared) combine.shared = d_shared.get() + last * ldx;
    combine.y = alone.get();
    combine.y_type = RowType::float32;
    PELAGIC_CUDA(moe_combine_cuda(combine, nullptr));
  }
  const std::vector<float> got = y.download(), got_alone = alone.download();
  const std::vector<bfloat16_bits> got_bf16 = y_bf16.download();
  int wrong = 0, wrong_bf16 = 0, wrong_alone = 0, touched = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const std::size_t row = i / ldx, column = i % ldx;
    if (row >= static_cast<std::size_t>(c.rows) || column >= kWidth) {
      touched += got[i] == got[i] || got_bf16[i] != 0xFFFF;
      continue;
    }
    wrong += got[i] != expected_y[i];
    wrong_bf16 += bf16_to_f32(got_bf16[i]) != bf16_to_f32(f32_to_bf16(expected_y[i]));
    if (row == static_cast<std::size_t>(last)) wrong_alone += got_alone[column] != got[i];
  }
  PELAGIC_EXPECT(wrong == 0 && wrong_bf16 == 0, "%s: combine, %d and %d elements differ", c.name, wrong, wrong_bf16);
  PELAGIC_EXPECT(wrong_alone == 0, "%s: a row alone has %d other elements", c.name, wrong_alone);
  PELAGIC_EXPECT(touched == 0, "%s: combine wrote %d elements outside of its rows", c.name, touched);
}

void bad_calls_are_refused() {
  MoeSortCudaCall sort = {};
  sort.top_k = 8;
  sort.experts = 8;
  sort.slots = 9;
  PELAGIC_EXPECT(moe_sort_cuda(sort, nullptr) == cudaErrorInvalidValue, "9 slots of 8 experts without a table");
  MoeDispatchCudaCall dispatch = {};
  dispatch.top_k = 1;
  dispatch.row_bytes = 24;
  PELAGIC_EXPECT(moe_dispatch_cuda(dispatch, nullptr) == cudaErrorInvalidValue, "24 bytes");
  MoeCombineCudaCall combine = {};
  combine.top_k = 1;
  combine.width = 12;
  PELAGIC_EXPECT(moe_combine_cuda(combine, nullptr) == cudaErrorInvalidValue, "width 12");
}

}  // namespace
}  // namespace pelagic

// `moe_cuda_test quick`: few rows, for compute-sanitizer.
int main(int argc, char** argv) {
  using namespace pelagic;
  const bool quick = test::asked_quick(argc, argv);
  return test::run("moe_cuda", [quick] {
    for (const Case& c :
         {Case{"V3", 37, 8, 256, 1, 0, false, true}, Case{"V3, one row", 1, 8, 256, 1, 0, false, true},
          Case{"no rows", 0, 8, 256, 1, 0, false, true}, Case{"without shared experts", 5, 6, 64, 1, 0, false, false},
          Case{"all to the same", 70, 8, 16, 1, 0, true, true}, Case{"one expert", 33, 1, 1, 1, 0, false, true},
          Case{"many ranks", 9, 20, 32, 1, 0, false, true}, Case{"replicas", 61, 8, 32, 3, 0, false, true},
          Case{"masked", 61, 8, 32, 1, 61, false, true}, Case{"masked, replicas", 61, 8, 32, 4, 61, false, true},
          Case{"masked, no room", 61, 8, 32, 2, 5, false, true}, Case{"bad ids", 61, 8, 32, 2, 0, false, true, 7},
          Case{"bad ids, masked", 61, 8, 32, 2, 9, false, false, 7}})
      check(c);
    if (!quick) check({"V3, 1,500 rows", 1500, 8, 256, 1, 0, false, true});
    bad_calls_are_refused();
  });
}

#include "ops/moe/moe_cuda_bench.h"

#include <cmath>
#include <cstring>
#include <string>

#include "cuda/random_fill.cuh"
#include "ops/moe/moe_cuda.h"

namespace pelagic {

void bench_moe(Bench& bench) {
  constexpr int kHidden = 7168, kExperts = 256, kTopK = 8, kMostRows = 4096;
  constexpr std::size_t kMostEntries = static_cast<std::size_t>(kMostRows) * kTopK;
  DeviceBuffer<__nv_bfloat16> x(static_cast<std::size_t>(kMostRows) * kHidden), experts(kMostEntries * kHidden),
      y(static_cast<std::size_t>(kMostRows) * kHidden);
  DeviceBuffer<float> weights(kMostEntries), x_scales(static_cast<std::size_t>(kMostRows) * kHidden / 128),
      out_scales(kMostEntries * kHidden / 128), y_f32(y.size());
  DeviceBuffer<std::int32_t> positions(kMostEntries), counts(kExperts), offsets(kExperts + 1), errors(kMoeErrors);
  errors.fill_bytes(0);
  fill_random(x.get(), x.size(), 1, bench.stream());
  fill_random(experts.get(), experts.size(), 2, bench.stream());
  fill_random(weights.get(), weights.size(), 3, bench.stream());
  for (const int rows : {128, 4096}) {
    const std::string for_rows = ", " + std::to_string(rows) + " rows x 8";
    const double entries = static_cast<double>(rows) * kTopK;
    std::vector<std::int32_t> ids;
    for (int row = 0; row < rows; ++row) {
      // Eight different experts at random: an odd step through 256.
      const std::uint64_t bits = random_bits(4, row);
      const int first = static_cast<int>(bits % kExperts), step = static_cast<int>(bits >> 40) % 128 * 2 + 1;
      for (int rank = 0; rank < kTopK; ++rank) ids.push_back((first + rank * step) % kExperts);
    }
    const DeviceBuffer<std::int32_t> d_ids(ids);
    MoeSortCudaCall sort = {};
    sort.rows = rows;
    sort.top_k = kTopK;
    sort.experts = kExperts;
    sort.slots = kExperts;
    sort.ids = d_ids.get();
    sort.positions = positions.get();
    sort.slot_counts = counts.get();
    sort.slot_offsets = offsets.get();
    sort.errors = errors.get();
    const auto run_sort = [&](cudaStream_t s) { PELAGIC_CUDA(moe_sort_cuda(sort, s)); };
    for (DeviceBuffer<std::int32_t>* out : {&positions, &counts, &offsets}) out->fill_bytes(0xFF);
    bench.run(run_sort);
    const std::vector<std::int32_t> places = positions.download(0, ids.size());
    {
      BenchCheck seen;
      const std::vector<std::int32_t> got_counts = counts.download(), got_offsets = offsets.download();
      std::int32_t next = 0;
      for (int expert = 0; expert < kExperts; ++expert) {
        seen.expect(got_offsets[expert] == next);
        for (std::size_t i = 0; i < ids.size(); ++i)
          if (ids[i] == expert) seen.expect(places[i] == next++);
        seen.expect(got_counts[expert] == next - got_offsets[expert]);
      }
      seen.expect(got_offsets[kExperts] == next);
      bench.check("moe sort" + for_rows, seen);
    }
    double us = bench.time_us(run_sort, 40);
    bench.add("moe sort" + for_rows, us, "us", bench.ceilings().empty_us + bench.roof_us(entries * 8.0 + 2048, 0, 0));
    for (const bool fp8 : {true, false}) {
      MoeDispatchCudaCall dispatch = {};
      dispatch.rows = rows;
      dispatch.top_k = kTopK;
      dispatch.row_bytes = kHidden * (fp8 ? 1 : 2);
      dispatch.positions = positions.get();
      dispatch.x = x.get();
      dispatch.ldx_bytes = dispatch.row_bytes;
      dispatch.out = experts.get();
      dispatch.scale_blocks = fp8 ? kHidden / 128 : 0;
      dispatch.x_scales = x_scales.get();
      dispatch.ld_x_scales = rows;
      dispatch.out_scales = out_scales.get();
      dispatch.ld_out_scales = rows * kTopK;
      const std::string what = "moe dispatch, " + std::string(fp8 ? "fp8" : "bf16") + " 7168" + for_rows;
      const auto run = [&](cudaStream_t s) { PELAGIC_CUDA(moe_dispatch_cuda(dispatch, s)); };
      experts.fill_bytes(0xFF);
      out_scales.fill_bytes(0xFF);
      bench.run(run);
      BenchCheck seen;
      const std::size_t numbers = static_cast<std::size_t>(dispatch.row_bytes) / sizeof(__nv_bfloat16);
      for (const int row : sampled_rows(rows)) {
        const auto sent = x.download(row * numbers, numbers);
        for (int rank = 0; rank < kTopK; ++rank) {
          const std::int32_t place = places[row * kTopK + rank];
          const auto got = experts.download(place * numbers, numbers);
          seen.expect(std::memcmp(got.data(), sent.data(), dispatch.row_bytes) == 0);
          for (int block = 0; block < dispatch.scale_blocks; block += 11)
            seen.expect(out_scales.download(static_cast<std::size_t>(block) * rows * kTopK + place, 1) ==
                        x_scales.download(static_cast<std::size_t>(block) * rows + row, 1));
        }
      }
      bench.check(what, seen);
      us = bench.time_us(run, 40);
      const double a_row = dispatch.row_bytes + 4.0 * dispatch.scale_blocks;
      bench.add(what, us, "us",
                bench.ceilings().empty_us + bench.roof_us(a_row * (rows + entries) + 4.0 * entries, 0, 0));
    }
    fill_random(experts.get(), experts.size(), 2, bench.stream());
    for (const RowType type : {RowType::bfloat16, RowType::float32}) {
      MoeCombineCudaCall combine = {};
      combine.rows = rows;
      combine.top_k = kTopK;
      combine.width = kHidden;
      combine.positions = positions.get();
      combine.weights = weights.get();
      combine.expert_out = experts.get();
      combine.shared = x.get();
      combine.ld_shared = kHidden;
      combine.y = type == RowType::float32 ? static_cast<void*>(y_f32.get()) : y.get();
      combine.y_type = type;
      combine.ldy = kHidden;
      const std::string what = "moe combine 7168" + for_rows + (type == RowType::float32 ? " -> float32" : " -> bf16");
      const auto run = [&](cudaStream_t s) { PELAGIC_CUDA(moe_combine_cuda(combine, s)); };
      y.fill_bytes(0xFF);
      y_f32.fill_bytes(0xFF);
      bench.run(run);
      BenchCheck seen;
      for (const int row : sampled_rows(rows)) {
        const auto row_of = [&](const auto& buffer, std::size_t at) { return buffer.download(at * kHidden, kHidden); };
        std::vector<double> exact, terms;
        for (const __nv_bfloat16 number : row_of(x, row)) {
          exact.push_back(static_cast<float>(number));
          terms.push_back(std::fabs(exact.back()));
        }
        for (int rank = 0; rank < kTopK; ++rank) {
          const std::size_t entry = static_cast<std::size_t>(row) * kTopK + rank;
          const double weight = weights.download(entry, 1)[0];
          const auto expert = row_of(experts, static_cast<std::size_t>(places[entry]));
          for (int i = 0; i < kHidden; ++i) {
            const double term = weight * static_cast<float>(expert[i]);
            exact[i] += term;
            terms[i] += std::fabs(term);
          }
        }
        if (type == RowType::float32) {
          const std::vector<float> got = row_of(y_f32, row);
          for (int i = 0; i < kHidden; ++i) seen.near(got[i], exact[i], 1e-6 * terms[i]);
        } else {
          const auto got = row_of(y, row);
          for (int i = 0; i < kHidden; ++i) seen.near_bf16(static_cast<float>(got[i]), exact[i], terms[i]);
        }
      }
      bench.check(what, seen);
      us = bench.time_us(run, 40);
      const double bytes =
          kHidden * (2.0 * (entries + rows) + static_cast<double>(rows) * row_type_bytes(type)) + 8.0 * entries;
      bench.add(what, us, "us", bench.ceilings().empty_us + bench.roof_us(bytes, 0, 0));
    }
  }
}

}  // namespace pelagic

// Attention in both forms, the latents it reads, and the lists of rows and blocks that it takes.
#include "backend/cuda/cuda_backend.h"

#include <algorithm>
#include <utility>

#include "backend/cuda/row_kernels.h"
#include "base/bfloat16.h"
#include "ops/mla_attention/mla_decode_cuda.h"
#include "ops/mla_attention/mla_prefill_cuda.h"

namespace pelagic::cuda {

namespace {

// Keys expanded at once, though a run's all are: bounds the memory for them.
constexpr int kMostExpandedKeys = 1 << 16;

}  // namespace

void CudaBackend::reserve_attention(const MlaShape& shape, int rows, int logit_rows, int positions) {
  const auto take = [this](DeviceMemory& memory, std::size_t bytes) {
    if (memory.bytes() >= bytes) return;
    wait("a step");
    drop_graphs();
    memory.grow(bytes);
  };
  // Many sequences, however short, come to kMostPieces; a group alone may have more.
  const int group = mla_decode_pieces(kGroupRows, shape.heads, positions, mla_decode_cut_tokens(shape.heads));
  take(attention_workspace_, mla_decode_workspace_bytes(piece_capacity(std::max(kMostPieces, group))));
  scheduled_ = nullptr;
  // Block tables of a decode step's sequences, for its sets of rows: all, those with logits, groups.
  const auto columns = table_columns((positions + kBlockRows - 1) / kBlockRows);
  arguments_.take(3 * elements(std::max(logit_rows, 1), columns) * sizeof(std::int32_t));
  if (!expands_prompts(shape)) return;
  // plan_expanded: several runs' keys, or one's; runs may share what they read, so these can be more than are cached.
  const auto keys =
      static_cast<int>(std::min<std::int64_t>(std::max(kMostExpandedKeys, positions), std::int64_t{rows} * positions));
  take(key_latents_, elements(keys, kLatentCudaColumns) * 2);
  take(key_rope_, elements(keys, kRopeCudaColumns) * 2);
  take(expanded_keys_, elements(keys, shape.heads * (shape.nope_dim + shape.value_dim)) * 2);
}

void CudaBackend::store_latents(const RowSet& rows, View compressed, const Vector& norm, float eps,
                                const RopeAngles& rope, KvCache& cache, int layer) {
  const auto& kv = static_cast<const CudaKvCache&>(cache);
  const DeviceRows& device = device_rows(rows);
  launch_pending_store();
  pending_store_ = {{.rows = rows.rows(),
                     .eps = eps,
                     .table = static_cast<const CudaRopeAngles&>(rope).table(),
                     .compressed = address(compressed),
                     .ld_compressed = compressed.stride,
                     .weight = values(norm),
                     .row_positions = device.positions,
                     .row_sequences = device.row_runs,
                     .block_table = device.block_table,
                     .sequences = static_cast<int>(rows.runs.size()),
                     .max_blocks = device.max_blocks,
                     .cache = kv.layer(layer),
                     .cache_blocks = kv.layout.blocks,
                     .errors = errors(kRopeErrorsAt),
                     .cache_dtype = kv.layout.dtype},
                    compressed.memory,
                    last_is_gemm_};
}

void CudaBackend::absorb_queries(const RowSet& rows, const MlaShape& shape, View q, const HeadMatrices& uk,
                                 const RopeAngles& rope, View absorbed) {
  const int query_dim = shape.nope_dim + shape.rope_dim;
  const int latent_width = shape.kv_rank + shape.rope_dim;
  const DeviceRows& device = device_rows(rows);
  const std::optional<PendingStore> store = std::exchange(pending_store_, std::nullopt);
  head_gemm(rows.rows(), q, query_dim, static_cast<const CudaHeadMatrices&>(uk), absorbed, latent_width);
  // Beside the GEMM, which writes the other columns.
  const RopeCudaCall call = {.rows = rows.rows(),
                             .heads = shape.heads,
                             .table = static_cast<const CudaRopeAngles&>(rope).table(),
                             .row_positions = device.positions,
                             .x = static_cast<const bfloat16_bits*>(address(q)) + shape.nope_dim,
                             .x_row_stride = q.stride,
                             .x_head_stride = query_dim,
                             .y = static_cast<bfloat16_bits*>(written(absorbed)) + shape.kv_rank,
                             .y_row_stride = absorbed.stride,
                             .y_head_stride = latent_width,
                             .errors = errors(kRopeErrorsAt),
                             .beside = true};
  launch("rope", [&] {
    return store.has_value() ? rope_and_store_cuda(call, store->call, stream_) : rope_cuda(call, stream_);
  });
}

void CudaBackend::attend(const RowSet& rows, const MlaShape& shape, View absorbed, float scale, const KvCache& cache,
                         int layer, View u) {
  const auto& kv = static_cast<const CudaKvCache&>(cache);
  DeviceRows& device = device_rows(rows);
  if (!device.groups) device.groups = row_groups(rows, device);
  const RowGroups& groups = *device.groups;
  const auto pieces_of = [&](int group) {
    const auto g = static_cast<std::size_t>(group);
    return mla_decode_pieces(groups.host_offsets[g + 1] - groups.host_offsets[g], shape.heads, groups.host_lengths[g],
                             mla_decode_cut_tokens(shape.heads));
  };
  for (int first = 0; first < groups.groups();) {
    int pieces = pieces_of(first);
    int end = first + 1;
    for (; end < groups.groups() && pieces + pieces_of(end) <= kMostPieces; ++end) pieces += pieces_of(end);
    const int capacity = piece_capacity(pieces);
    reserve(attention_workspace_, mla_decode_workspace_bytes(capacity));
    const MlaDecodeProblem problem = {
        .rows = rows.rows(),
        .heads = shape.heads,
        .sequences = end - first,
        .max_blocks = device.max_blocks,
        .cache_blocks = kv.layout.blocks,
        .cut_tokens = mla_decode_cut_tokens(shape.heads),
        .piece_capacity = capacity,
        .scale = scale,
        .q = address(absorbed),
        .cache = kv.layer(layer),
        .block_table = groups.block_table + static_cast<std::int64_t>(first) * device.max_blocks,
        .row_offsets = groups.row_offsets + first,
        .lengths = groups.lengths + first,
        .out = written(u),
        .workspace = attention_workspace_.get(),
        .errors = errors(kDecodeErrorsAt),
        .cache_dtype = kv.layout.dtype};
    // One list of pieces serves all layers of a step that goes through in one part.
    const bool listed = first == 0 && end == groups.groups() && scheduled_ == &device;
    scheduled_ = first == 0 && end == groups.groups() ? &device : nullptr;
    launch("MLA decode", [&] {
      const MlaDecodePlan plan = guarded("MLA decode", [&] { return make_mla_decode_plan(problem); });
      const cudaError_t error = listed ? cudaSuccess : launch_mla_decode_schedule(plan, stream_);
      return error == cudaSuccess ? launch_mla_decode(plan, stream_) : error;
    });
    first = end;
  }
}

bool CudaBackend::expands_prompts(const MlaShape& shape) const {
  return shape.nope_dim == kMlaPrefillNope && shape.rope_dim == kMlaPrefillRope &&
         shape.value_dim == kMlaPrefillValue && shape.kv_rank == kLatentCudaColumns;
}

void CudaBackend::attend_expanded(const RowSet& rows, const MlaShape& shape, View q, const Matrix& ukv,
                                  const RopeAngles& rope, float scale, const KvCache& cache, int layer, View values) {
  const auto& kv = static_cast<const CudaKvCache&>(cache);
  const auto& weights = static_cast<const CudaMatrix&>(ukv);
  DeviceRows& device = device_rows(rows);
  if (device.expanded.empty()) plan_expanded(rows, device);
  bfloat16_bits* queries = static_cast<bfloat16_bits*>(written(q));
  bfloat16_bits* out = static_cast<bfloat16_bits*>(written(values));
  launch("rope", [&] {
    return rope_cuda({.rows = rows.rows(),
                      .heads = shape.heads,
                      .table = static_cast<const CudaRopeAngles&>(rope).table(),
                      .row_positions = device.positions,
                      .x = queries + shape.nope_dim,
                      .x_row_stride = q.stride,
                      .x_head_stride = kMlaPrefillQuery,
                      .y = queries + shape.nope_dim,
                      .y_row_stride = q.stride,
                      .y_head_stride = kMlaPrefillQuery,
                      .errors = errors(kRopeErrorsAt)},
                     stream_);
  });
  for (const ExpandedRuns& part : device.expanded) {
    reserve(key_latents_, elements(part.keys, kLatentCudaColumns) * 2);
    reserve(key_rope_, elements(part.keys, kRopeCudaColumns) * 2);
    reserve(expanded_keys_, elements(part.keys, weights.n) * 2);
    launch("the gathering of latents", [&] {
      return gather_latents_cuda(
          {.keys = part.keys,
           .runs = part.runs,
           .max_blocks = device.max_blocks,
           .cache_blocks = kv.layout.blocks,
           .key_offsets = part.key_offsets,
           .block_table = device.block_table + static_cast<std::int64_t>(part.first_run) * device.max_blocks,
           .cache = kv.layer(layer),
           .cache_dtype = kv.layout.dtype,
           .latents = key_latents_.get(),
           .rope = key_rope_.get(),
           .error = errors(kGatherErrorsAt)},
          stream_);
    });
    for (int first = 0; first < part.keys; first += kMostExpandedKeys) {
      run_gemm({weights.n, weights.k, 1, RowType::bfloat16},
               {.rows = std::min(kMostExpandedKeys, part.keys - first),
                .x = key_latents_.get<bfloat16_bits>() + elements(first, kLatentCudaColumns),
                .ldx = kLatentCudaColumns,
                .w = weights.memory.get(),
                .y = expanded_keys_.get<bfloat16_bits>() + elements(first, weights.n),
                .ldy = weights.n});
    }
    launch("MLA prefill", [&] {
      return launch_mla_prefill(guarded("MLA prefill",
                                        [&] {
                                          return make_mla_prefill_plan({.rows = part.rows,
                                                                        .keys = part.keys,
                                                                        .heads = shape.heads,
                                                                        .sequences = part.runs,
                                                                        .scale = scale,
                                                                        .q = queries + part.first_row * q.stride,
                                                                        .kv = expanded_keys_.get(),
                                                                        .k_rope = key_rope_.get(),
                                                                        .row_offsets = part.row_offsets,
                                                                        .key_offsets = part.key_offsets,
                                                                        .out = out + part.first_row * values.stride,
                                                                        .errors = errors(kPrefillErrorsAt)});
                                        }),
                                stream_);
    });
  }
}

DeviceRows& CudaBackend::device_rows(const RowSet& rows) {
  const auto found = device_rows_.find(&rows);
  if (found != device_rows_.end()) return found->second;
  DeviceRows out = {};
  out.max_blocks = 1;
  for (const RowRun& run : rows.runs) out.max_blocks = std::max(out.max_blocks, blocks_of(run));
  if (is_decode(rows)) out.max_blocks = table_columns(out.max_blocks);
  row_runs_.clear();
  block_table_.clear();
  for (std::size_t i = 0; i < rows.runs.size(); ++i) {
    row_runs_.insert(row_runs_.end(), static_cast<std::size_t>(rows.runs[i].rows), static_cast<std::int32_t>(i));
    append_blocks(rows.runs[i], out.max_blocks);
  }
  out.positions = send(std::span(rows.positions));
  out.row_runs = send(std::span<const std::int32_t>(row_runs_));
  out.block_table = send(std::span<const std::int32_t>(block_table_));
  return device_rows_.emplace(&rows, std::move(out)).first->second;
}

int CudaBackend::blocks_of(const RowRun& run) { return (run.first_position + run.rows - 1) / kBlockRows + 1; }

void CudaBackend::append_blocks(const RowRun& run, int max_blocks) {
  const int blocks = blocks_of(run);
  for (int block = 0; block < blocks; ++block) block_table_.push_back(static_cast<std::int32_t>(run.blocks[block]));
  block_table_.resize(block_table_.size() + static_cast<std::size_t>(max_blocks - blocks));
}

RowGroups CudaBackend::row_groups(const RowSet& rows, const DeviceRows& device) {
  RowGroups out = {};
  block_table_.clear();
  out.host_offsets.push_back(0);
  const bool cut = std::any_of(rows.runs.begin(), rows.runs.end(), [](const RowRun& r) { return r.rows > kGroupRows; });
  for (const RowRun& run : rows.runs) {
    for (int first = 0; first < run.rows; first += kGroupRows) {
      const int count = std::min(kGroupRows, run.rows - first);
      out.host_offsets.push_back(out.host_offsets.back() + count);
      out.host_lengths.push_back(run.first_position + first + count);
      if (cut) append_blocks(run, device.max_blocks);
    }
  }
  out.block_table = cut ? send(std::span<const std::int32_t>(block_table_)) : device.block_table;
  out.row_offsets = send(std::span<const std::int32_t>(out.host_offsets));
  out.lengths = send(std::span<const std::int32_t>(out.host_lengths));
  return out;
}

void CudaBackend::plan_expanded(const RowSet& rows, DeviceRows& device) {
  const auto keys_of = [&](int run) {
    const RowRun& r = rows.runs[static_cast<std::size_t>(run)];
    return r.first_position + r.rows;
  };
  const int runs = static_cast<int>(rows.runs.size());
  for (int first = 0, row = 0; first < runs;) {
    std::vector<std::int32_t> row_offsets = {0}, key_offsets = {0};
    int end = first;
    do {
      row_offsets.push_back(row_offsets.back() + rows.runs[static_cast<std::size_t>(end)].rows);
      key_offsets.push_back(key_offsets.back() + keys_of(end));
      ++end;
    } while (end < runs && key_offsets.back() + keys_of(end) <= kMostExpandedKeys);
    device.expanded.push_back({.first_run = first,
                               .runs = end - first,
                               .first_row = row,
                               .rows = row_offsets.back(),
                               .keys = key_offsets.back(),
                               .row_offsets = send(std::span<const std::int32_t>(row_offsets)),
                               .key_offsets = send(std::span<const std::int32_t>(key_offsets))});
    row += row_offsets.back();
    first = end;
  }
}

}  // namespace pelagic::cuda

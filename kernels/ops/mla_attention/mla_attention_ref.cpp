#include <algorithm>
#include <limits>

#include "base/bfloat16.h"
#include "base/chains.h"
#include "base/exp.h"
#include "ops/mla_attention/mla_attention.h"

namespace pelagic::PELAGIC_SCALAR_NAMESPACE {
namespace {

// Rows [0, keys) of one block as float32, in place where the cache is float32.
const float* load_tile(const KvLayout& layout, const std::byte* block, int keys, float* scratch) {
  if (layout.dtype == KvDtype::float32) return reinterpret_cast<const float*>(block);
  const auto* bits = reinterpret_cast<const bfloat16_bits*>(block);
  const int count = keys * layout.latent_width();
  for (int i = 0; i < count; ++i) scratch[i] = bf16_to_f32(bits[i]);
  return scratch;
}

// One query vector over all its keys, tile by tile.
void attend(const MlaAttentionCall& call, int key_count, const float* q, float* u, float* scratch) {
  const int rank = call.layout->kv_rank;
  const int width = call.layout->latent_width();
  float m = -std::numeric_limits<float>::infinity();
  float l = 0.0f;
  for (int i = 0; i < rank; ++i) u[i] = 0.0f;
  for (int first_key = 0; first_key < key_count; first_key += kBlockRows) {
    const int keys = std::min(kBlockRows, key_count - first_key);
    const std::byte* block = call.cache + call.layout->offset(call.layer, call.blocks[first_key / kBlockRows], 0);
    const float* tile = load_tile(*call.layout, block, keys, scratch);

    float p[kBlockRows];
    float m_new = m;
    for (int j = 0; j < keys; ++j) {
      p[j] = dot_chains(q, tile + j * width, width) * call.scale;
      m_new = p[j] > m_new ? p[j] : m_new;
    }
    float chains[kChains] = {};
    for (int j = 0; j < keys; ++j) {
      p[j] = exp_f32(p[j] - m_new);
      chains[j % kChains] = chains[j % kChains] + p[j];
    }
    const float correction = exp_f32(m - m_new);
    l = l * correction + sum_chains(chains);
    m = m_new;
    for (int i = 0; i < rank; ++i) u[i] = u[i] * correction;
    for (int j = 0; j < keys; ++j) {
      const float* c = tile + j * width;
      for (int i = 0; i < rank; ++i) u[i] = std::fma(p[j], c[i], u[i]);
    }
  }
  for (int i = 0; i < rank; ++i) u[i] = u[i] / l;
}

}  // namespace

void mla_attention(const MlaAttentionCall& call, int row_begin, int row_end, int head_begin, int head_end, float* scratch) {
  for (int row = row_begin; row < row_end; ++row) {
    for (int head = head_begin; head < head_end; ++head) {
      const float* q = call.q + row * call.q_row_stride + head * call.q_head_stride;
      float* u = call.u + row * call.u_row_stride + head * call.u_head_stride;
      attend(call, call.first_position + row + 1, q, u, scratch);
    }
  }
}

}  // namespace pelagic::PELAGIC_SCALAR_NAMESPACE

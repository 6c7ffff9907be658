#include <algorithm>
#include <limits>

#include "base/bfloat16.h"
#include "base/chains.h"
#include "base/exp.h"
#include "ops/mla_attention/mla_attention.h"

namespace pelagic::PELAGIC_SCALAR_NAMESPACE {
namespace {

float widen(float x) { return x; }
float widen(bfloat16_bits bits) { return bf16_to_f32(bits); }

// The cached row of one key: Element is float or bfloat16_bits.
template <class Element>
const Element* key_row(const MlaAttentionCall& call, int key) {
  const std::size_t offset = call.layout->offset(call.layer, call.blocks[key / kBlockRows], key % kBlockRows);
  return reinterpret_cast<const Element*>(call.cache + offset);
}

template <class Element>
float score(const MlaAttentionCall& call, int row, int head, int key) {
  const float* q = call.q + row * call.q_row_stride + head * call.q_head_stride;
  const Element* k = key_row<Element>(call, key);
  const int width = call.layout->latent_width();
  float chains[kChains] = {};
  int d = 0;
  for (; d + kChains <= width; d += kChains)
    for (int i = 0; i < kChains; ++i) chains[i] = std::fma(q[d + i], widen(k[d + i]), chains[i]);
  for (int i = 0; d + i < width; ++i) chains[i] = std::fma(q[d + i], widen(k[d + i]), chains[i]);
  return sum_chains(chains) * call.scale;
}

// Softmax and weighted sum of one (row, head), tile by tile. score_of(key) gives the scaled scores.
template <class Element, class ScoreOf>
void attend(const MlaAttentionCall& call, int row, int head, int column_begin, int column_end,
            const ScoreOf& score_of) {
  float* u = call.u + row * call.u_row_stride + head * call.u_head_stride;
  const int key_count = call.first_position + row + 1;
  float m = -std::numeric_limits<float>::infinity();
  float l = 0.0f;
  for (int i = column_begin; i < column_end; ++i) u[i] = 0.0f;
  for (int first_key = 0; first_key < key_count; first_key += kBlockRows) {
    const int keys = std::min(kBlockRows, key_count - first_key);
    float p[kBlockRows];
    float m_new = m;
    for (int j = 0; j < keys; ++j) {
      p[j] = score_of(first_key + j);
      m_new = p[j] > m_new ? p[j] : m_new;
    }
    float chains[kChains] = {};
    for (int j = 0; j < keys; ++j) {
      p[j] = softmax_exp_f32(p[j] - m_new);
      chains[j % kChains] = chains[j % kChains] + p[j];
    }
    const float correction = softmax_exp_f32(m - m_new);
    l = l * correction + sum_chains(chains);
    m = m_new;
    for (int i = column_begin; i < column_end; ++i) u[i] = u[i] * correction;
    for (int j = 0; j < keys; ++j) {
      const Element* c = key_row<Element>(call, first_key + j);
      for (int i = column_begin; i < column_end; ++i) u[i] = std::fma(p[j], widen(c[i]), u[i]);
    }
  }
  for (int i = column_begin; i < column_end; ++i) u[i] = u[i] / l;
}

// fn.template operator()<Element>() for the cache's element type.
template <class Fn>
void with_element(const MlaAttentionCall& call, const Fn& fn) {
  if (call.layout->dtype == KvDtype::float32) {
    fn.template operator()<float>();
  } else {
    fn.template operator()<bfloat16_bits>();
  }
}

}  // namespace

void mla_attention(const MlaAttentionCall& call, int row_begin, int row_end, int head_begin, int head_end,
                   float* /*scratch*/) {
  with_element(call, [&]<class Element>() {
    for (int row = row_begin; row < row_end; ++row)
      for (int head = head_begin; head < head_end; ++head)
        attend<Element>(call, row, head, 0, call.layout->kv_rank,
                        [&](int key) { return score<Element>(call, row, head, key); });
  });
}

void mla_scores(const MlaAttentionCall& call, int row, int head_begin, int head_end, int key_begin, int key_end,
                float* scores, std::int64_t ld_scores) {
  with_element(call, [&]<class Element>() {
    for (int head = head_begin; head < head_end; ++head)
      for (int key = key_begin; key < key_end; ++key)
        scores[(head - head_begin) * ld_scores + key] = score<Element>(call, row, head, key);
  });
}

void mla_values(const MlaAttentionCall& call, int row, int head_begin, int head_end, int column_begin, int column_end,
                const float* scores, std::int64_t ld_scores) {
  with_element(call, [&]<class Element>() {
    for (int head = head_begin; head < head_end; ++head)
      attend<Element>(call, row, head, column_begin, column_end,
                      [&](int key) { return scores[(head - head_begin) * ld_scores + key]; });
  });
}

}  // namespace pelagic::PELAGIC_SCALAR_NAMESPACE

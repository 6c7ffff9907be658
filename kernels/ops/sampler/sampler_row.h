// How a team of blocks samples from one row: what sampler.cpp chooses, found without an order. The team is a thread's
// view of the machine: a cluster on the GPU (sampler.cu), ordinary threads in a test. Every sum is of integers and
// every maximum breaks its ties by id, so the answer does not depend on how many threads and blocks there are.
//
// A Team has
//   kThreads, kBlocks                   of the team; thread(), block(): which one this is
//   sync(), sync_all()                  barriers of the block, of the team, after which all see what was written before
//   peer(pointer, block)                the same place in another block's shared memory
//   add(place, amount)                  atomic, in this block's shared memory; of 32 bits: returns what was there
//   best_of_block(Ranked)               valid in thread 0
//   sum_up_to(value, &total)            sum over the block's threads up to this one, itself included
//   exp(x)                              base/exp.h
//   load(pointer)                       four floats, 16-byte aligned
// All threads of a block call sync, best_of_block and sum_up_to together; all of the team sync_all.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "ops/sampler/sampler_math.h"
#include "ops/sampler/sampler_pack.h"

#ifdef __CUDACC__
#define PELAGIC_ROW_CODE __device__ __forceinline__
#define PELAGIC_ROW_UNROLL _Pragma("unroll")
#define PELAGIC_ROW_ROLLED _Pragma("unroll 1")  // a row's loops come often: unrolled they would crowd out the code
#else
#define PELAGIC_ROW_CODE inline
#define PELAGIC_ROW_UNROLL
#define PELAGIC_ROW_ROLLED
#endif

namespace pelagic {

inline constexpr int kSelectBins = 512;

struct alignas(16) Four {
  float v[4];
};

// The higher value is better, then the lower id.
struct Ranked {
  std::uint64_t value;
  std::uint64_t id;
};

PELAGIC_ROW_CODE bool is_better(const Ranked& a, const Ranked& b) {
  return a.value != b.value ? a.value > b.value : a.id < b.id;
}

// Unsigned order = the numbers' order, -0 equal to 0. Not NaN.
PELAGIC_ROW_CODE std::uint32_t order_of(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
PELAGIC_ROW_CODE float number_of_order(std::uint32_t order) {
  return std::bit_cast<float>((order & 0x80000000u) != 0 ? order & 0x7FFFFFFFu : ~order);
}
PELAGIC_ROW_CODE std::uint64_t order_of(double x) {
  const std::uint64_t bits = std::bit_cast<std::uint64_t>(x + 0.0);
  return (bits >> 63) != 0 ? ~bits : bits | 0x8000000000000000ull;
}

// One block's memory that the team shares, beside its part of the row.
template <int kBlocks>
struct RowShared {
  std::uint64_t bins[2][kSelectBins + 1];
  Ranked best[2];
  std::uint64_t found_before;
  std::uint64_t found_at;
  std::uint32_t found_bin;
  std::uint32_t tops;  // how many of `top`
  std::uint64_t top[kMostTopLogprobs];
  std::uint64_t all_tops[kBlocks * kMostTopLogprobs];
};

// Fours of a row that one of `blocks` holds at most.
constexpr int fours_of_block(int vocab, int blocks) { return ((vocab + 3) / 4 + blocks - 1) / blocks; }

template <typename Team>
class RowSampler {
 public:
  using Shared = RowShared<Team::kBlocks>;

  // fours: [fours_of_block], this block's own. packed: the batch's parameters, p one of its rows. logits: [vocab].
  PELAGIC_ROW_CODE RowSampler(Team& team, Shared& shared, Four* fours, const PackedSampling& p, const char* packed,
                              const float* logits, int vocab)
      : team_(team), shared_(shared), fours_(fours), p_(p), packed_(packed), logits_(logits), vocab_(vocab) {
    const int each = fours_of_block(vocab, Team::kBlocks);
    const int all = (vocab + 3) / 4;
    const int first = team.block() * each;
    first_four_ = first < all ? first : all;
    count_ = all - first_four_ < each ? all - first_four_ : each;
  }

  // Every thread of the team calls it; one writes the record.
  PELAGIC_ROW_CODE void run(SampledRow& out) {
    const bool logprobs = p_.logprobs >= 0;
    Ranked raw = kNone;
    Ranked best = load_row(logprobs ? &raw : nullptr);
    if (p_.biases + p_.penalties + p_.allowed_at != 0) best = adjust_row();
    best = best_of_all(best);
    const float largest = number_of_order(static_cast<std::uint32_t>(best.value));
    const bool valid = largest != -std::numeric_limits<float>::infinity();
    auto token = static_cast<std::uint32_t>(best.id);
    if (valid && p_.temperature > 0.0f) {
      turn_into_distances(largest);
      if (p_.top_k > 0 && p_.top_k < vocab_) keep_top_k();
      if (p_.top_p < 1.0f) keep_top_p();
      token = draw();
    }
    if (first_of_all()) {
      out.token = static_cast<std::int32_t>(token);
      out.valid = valid ? 1 : 0;
    }
    if (valid && logprobs) {
      report_logprobs(raw, token, out);
    } else if (first_of_all()) {
      out.logprob = std::numeric_limits<float>::quiet_NaN();
      out.rank = 0;
      out.tops = 0;
    }
    // No block leaves while another may look into its memory.
    team_.sync_all();
  }

 private:
  static constexpr Ranked kNone{0, 0xFFFFFFFFu};
  // Of a distance below the largest logit. What is infinitely far is no candidate.
  static constexpr std::uint32_t kFarthest = 0x7F7FFFFFu;
  static constexpr std::uint32_t kEveryId = 0xFFFFFFFFu;
  // The largest logit itself is a candidate, and gets at least -3.14: none so far below it can win with kLargestNoise.
  static constexpr float kHopeless = 26.5f;

  PELAGIC_ROW_CODE bool first_of_all() const { return team_.thread() == 0 && team_.block() == 0; }

  // The best over the team's threads, in all of them.
  PELAGIC_ROW_CODE Ranked best_of_all(Ranked mine) {
    mine = team_.best_of_block(mine);
    if (team_.thread() == 0) shared_.best[best_turn_] = mine;
    team_.sync_all();
    Ranked best = kNone;
    PELAGIC_ROW_UNROLL
    for (int block = 0; block < Team::kBlocks; ++block) {
      const Ranked other = *team_.peer(&shared_.best[best_turn_], block);
      if (is_better(other, best)) best = other;
    }
    // Two places in turn: whoever writes this one again has met all its readers at the barrier between.
    best_turn_ ^= 1;
    return best;
  }

  // Four of the row's logits; NaN past its end.
  PELAGIC_ROW_CODE Four load(int four) const {
    const int id = four * 4;
    if (id + 4 <= vocab_) return team_.load(logits_ + id);
    Four x;
    PELAGIC_ROW_UNROLL
    for (int j = 0; j < 4; ++j) x.v[j] = id + j < vocab_ ? logits_[id + j] : std::numeric_limits<float>::quiet_NaN();
    return x;
  }

  PELAGIC_ROW_CODE static void offer(Ranked& best, float x, std::uint32_t id) {
    const Ranked mine{order_of(number(x)), id};
    if (is_better(mine, best)) best = mine;
  }

  // Returns this thread's best, which goes to *raw too.
  PELAGIC_ROW_CODE Ranked load_row(Ranked* raw) {
    constexpr int kAtOnce = 8;  // loads under way together
    Ranked best = kNone;
    PELAGIC_ROW_ROLLED
    for (int first = team_.thread(); first < count_; first += kAtOnce * Team::kThreads) {
      Four x[kAtOnce];
      PELAGIC_ROW_UNROLL
      for (int i = 0; i < kAtOnce; ++i)
        if (first + i * Team::kThreads < count_) x[i] = load(first_four_ + first + i * Team::kThreads);
      PELAGIC_ROW_UNROLL
      for (int i = 0; i < kAtOnce; ++i) {
        const int four = first + i * Team::kThreads;
        if (four >= count_) continue;
        fours_[four] = x[i];
        PELAGIC_ROW_UNROLL
        for (int j = 0; j < 4; ++j) offer(best, x[i].v[j], static_cast<std::uint32_t>((first_four_ + four) * 4 + j));
      }
    }
    if (raw != nullptr) *raw = best;
    if (team_.thread() == 0) shared_.tops = 0;
    team_.sync();
    return best;
  }

  // f(id, value) for what this thread holds of the row. Its share is the same in every call: no barrier is needed.
  template <typename F>
  PELAGIC_ROW_CODE void for_each(F f) const {
    PELAGIC_ROW_ROLLED
    for (int four = team_.thread(); four < count_; four += Team::kThreads) {
      const Four x = fours_[four];
      PELAGIC_ROW_UNROLL
      for (int j = 0; j < 4; ++j) f(static_cast<std::uint32_t>((first_four_ + four) * 4 + j), x.v[j]);
    }
  }

  // Bias, penalties, and what may be chosen at all. Returns this thread's best.
  PELAGIC_ROW_CODE Ranked adjust_row() {
    float* const part = reinterpret_cast<float*>(fours_);
    const std::uint32_t first = static_cast<std::uint32_t>(first_four_) * 4;
    const std::uint32_t size = static_cast<std::uint32_t>(count_) * 4;
    const auto* const biases = reinterpret_cast<const PackedBias*>(packed_ + p_.bias_at);
    PELAGIC_ROW_ROLLED
    for (std::uint32_t i = team_.thread(); i < p_.biases; i += Team::kThreads) {
      const std::uint32_t id = biases[i].id;
      if (id - first >= size || (i > 0 && biases[i - 1].id == id)) continue;
      float logit = part[id - first];
      PELAGIC_ROW_ROLLED
      for (std::uint32_t same = i; same < p_.biases && biases[same].id == id; ++same)
        logit = logit + biases[same].value;
      part[id - first] = logit;
    }
    team_.sync();
    const auto* const penalties = reinterpret_cast<const PackedPenalty*>(packed_ + p_.penalty_at);
    PELAGIC_ROW_ROLLED
    for (std::uint32_t i = team_.thread(); i < p_.penalties; i += Team::kThreads) {
      const PackedPenalty penalty = penalties[i];
      if (penalty.id - first >= size) continue;
      float logit = part[penalty.id - first];
      if (p_.repetition_penalty != 1.0f) logit = penalize_repetition(logit, p_.repetition_penalty);
      if (penalty.output_count != 0)
        logit = penalize_output(logit, p_.frequency_penalty, p_.presence_penalty, penalty.output_count);
      part[penalty.id - first] = logit;
    }
    team_.sync();
    if (p_.allowed_at != 0) forbid(reinterpret_cast<const std::uint32_t*>(packed_ + p_.allowed_at));
    Ranked best = kNone;
    for_each([&](std::uint32_t id, float x) { offer(best, x, id); });
    return best;
  }

  // Fours reach past the vocabulary, its words may not: what is there is NaN already.
  PELAGIC_ROW_CODE void forbid(const std::uint32_t* allowed) {
    PELAGIC_ROW_ROLLED
    for (int four = team_.thread(); four < count_; four += Team::kThreads) {
      const auto id = static_cast<std::uint32_t>((first_four_ + four) * 4);  // a multiple of four: one word has all
      const std::uint32_t bits = allowed[id / 32] >> (id % 32);
      PELAGIC_ROW_UNROLL
      for (int j = 0; j < 4; ++j)
        if ((bits >> j & 1) == 0) fours_[four].v[j] = -std::numeric_limits<float>::infinity();
    }
  }

  PELAGIC_ROW_CODE void turn_into_distances(float largest) {
    PELAGIC_ROW_ROLLED
    for (int four = team_.thread(); four < count_; four += Team::kThreads) {
      Four x = fours_[four];
      PELAGIC_ROW_UNROLL
      for (int j = 0; j < 4; ++j) x.v[j] = distance_below(number(x.v[j]), largest, p_.temperature);
      fours_[four] = x;
    }
  }

  // ---- Cuts. Ids in the order of their keys, the lowest key first; each has an amount.

  struct Cut {
    bool found;
    std::uint32_t key;     // with whose ids the wanted amount is reached
    std::uint64_t before;  // the amount of lower keys
    std::uint64_t at;      // the amount of this key
  };

  // The shift with which numbers up to `range` fall into the bins.
  PELAGIC_ROW_CODE static int shift_of(std::uint32_t range) {
    int shift = 0;
    while ((range >> shift) >= kSelectBins) ++shift;
    return shift;
  }

  // keys(f) calls f(key, amount()) for this thread's ids. wanted(total) is asked once, with the amount of the keys
  // below `origin + (kSelectBins << shift)`; at least 1. low, last: the lowest and the highest key there may be. Not
  // found: all keys together have less.
  //
  // A round counts the amounts of kSelectBins ranges, 2^shift keys each, the first one from `low`, the second one from
  // `origin` + 2^shift; then it looks into the range with which the wanted amount is reached, or beyond them all. The
  // caller's first ranges are narrow where keys are many: ids in the same bin wait for each other. The lowest key alone
  // is often enough: it is counted apart too, in the first round.
  template <typename Keys, typename Wanted>
  PELAGIC_ROW_CODE Cut find_cut(std::uint32_t low, std::uint32_t origin, int shift, std::uint32_t last, Keys keys,
                                Wanted wanted_of) {
    constexpr int kEach = kSelectBins / Team::kThreads;
    static_assert(kSelectBins % Team::kThreads == 0);
    std::uint64_t before = 0;
    std::uint64_t wanted = 0;
    for (bool first = true;; first = false) {
      // Two sets of bins in turn, for the reason given in best_of_all.
      std::uint64_t* const bins = shared_.bins[bins_turn_];
      bins_turn_ ^= 1;
      PELAGIC_ROW_ROLLED
      for (int i = team_.thread(); i <= kSelectBins; i += Team::kThreads) bins[i] = 0;
      team_.sync();
      keys([&](std::uint32_t key, auto amount) {
        const std::uint32_t bin = (key > origin ? key - origin : 0) >> shift;
        if (key >= low && bin < kSelectBins) {
          const std::uint64_t a = amount();
          if (a != 0) team_.add(&bins[bin], a);
          if (first && key == low) team_.add(&bins[kSelectBins], a);
        }
      });
      team_.sync_all();
      std::uint64_t amounts[kEach];
      std::uint64_t own = 0;
      PELAGIC_ROW_UNROLL
      for (int i = 0; i < kEach; ++i) {
        amounts[i] = 0;
        PELAGIC_ROW_UNROLL
        for (int block = 0; block < Team::kBlocks; ++block)
          amounts[i] += *team_.peer(&bins[team_.thread() * kEach + i], block);
        own += amounts[i];
      }
      std::uint64_t total = 0;
      std::uint64_t running = before + team_.sum_up_to(own, &total) - own;
      if (first) {
        wanted = wanted_of(total);
        std::uint64_t lowest = 0;
        PELAGIC_ROW_UNROLL
        for (int block = 0; block < Team::kBlocks; ++block) lowest += *team_.peer(&bins[kSelectBins], block);
        if (lowest >= wanted) return {true, low, 0, lowest};
      }
      PELAGIC_ROW_UNROLL
      for (int i = 0; i < kEach; ++i) {
        if (running < wanted && wanted <= running + amounts[i]) {
          shared_.found_bin = static_cast<std::uint32_t>(team_.thread() * kEach + i);
          shared_.found_before = running;
          shared_.found_at = amounts[i];
        }
        running += amounts[i];
      }
      team_.sync();
      std::uint64_t high = last;
      if (before + total >= wanted) {
        const std::uint32_t bin = shared_.found_bin;
        before = shared_.found_before;
        const std::uint64_t start = origin + (static_cast<std::uint64_t>(bin) << shift);
        const std::uint64_t end = start + (std::uint64_t{1} << shift) - 1;
        high = end < last ? end : last;
        if (bin != 0) low = static_cast<std::uint32_t>(start);
        if (low == high) return {true, low, before, shared_.found_at};
      } else {
        before += total;
        const std::uint64_t next = origin + (static_cast<std::uint64_t>(kSelectBins) << shift);
        if (next > last) return {false, 0, 0, 0};
        low = static_cast<std::uint32_t>(next);
      }
      origin = low;
      shift = shift_of(static_cast<std::uint32_t>(high) - low);
    }
  }

  // The highest of the `count` lowest ids for which is_tied(id, value of for_each), of which there are more.
  template <typename Visit>
  PELAGIC_ROW_CODE std::uint32_t last_tied_id(std::uint64_t count, Visit visit) {
    const auto last = static_cast<std::uint32_t>(vocab_ - 1);
    return find_cut(
               0, 0, shift_of(last), last,
               [&](auto f) { visit([&](std::uint32_t id) { f(id, [] { return std::uint64_t{1}; }); }); },
               [&](std::uint64_t) { return count; })
        .key;
  }

  PELAGIC_ROW_CODE bool is_kept(std::uint32_t id, float distance) const {
    const std::uint32_t key = std::bit_cast<std::uint32_t>(distance);
    return key < last_key_ || (key == last_key_ && id <= last_id_);
  }

  PELAGIC_ROW_CODE std::uint64_t weight(float distance) const { return integer_weight(team_.exp(-distance)); }

  // Keeps what comes before the cut, and `count` of the ids at its key.
  PELAGIC_ROW_CODE void keep(const Cut& cut, std::uint64_t count, std::uint64_t tied) {
    std::uint32_t id = cut.key == last_key_ ? last_id_ : kEveryId;
    if (count < tied)
      id = last_tied_id(count, [&](auto f) {
        for_each([&](std::uint32_t i, float d) {
          if (std::bit_cast<std::uint32_t>(d) == cut.key && is_kept(i, d)) f(i);
        });
      });
    last_key_ = cut.key;
    last_id_ = id;
  }

  // A distance's bits are its key. The first ranges: a 64th of an octave, from 1/4 to 64.
  static constexpr int kDistanceShift = 17;
  static constexpr std::uint32_t kDistanceOrigin = 0x3E800000u - (1u << kDistanceShift);

  PELAGIC_ROW_CODE void keep_top_k() {
    const auto wanted = static_cast<std::uint64_t>(p_.top_k);
    const Cut cut = find_cut(
        0, kDistanceOrigin, kDistanceShift, kFarthest,
        [&](auto f) {
          for_each([&](std::uint32_t id, float d) {
            if (is_kept(id, d)) f(std::bit_cast<std::uint32_t>(d), [] { return std::uint64_t{1}; });
          });
        },
        [&](std::uint64_t) { return wanted; });
    if (cut.found) keep(cut, wanted - cut.before, cut.at);
  }

  PELAGIC_ROW_CODE void keep_top_p() {
    std::uint64_t wanted = 0;
    // Weights from a distance of 28 on are 0: the first ranges hold all that is.
    const Cut cut = find_cut(
        0, kDistanceOrigin, kDistanceShift, kFarthest,
        [&](auto f) {
          for_each([&](std::uint32_t id, float d) {
            if (d < 28.0f && is_kept(id, d)) f(std::bit_cast<std::uint32_t>(d), [&] { return weight(d); });
          });
        },
        [&](std::uint64_t total) { return wanted = weight_to_reach(p_.top_p, total); });
    const std::uint64_t each = weight(std::bit_cast<float>(cut.key));
    keep(cut, (wanted - cut.before + each - 1) / each, cut.at / each);
  }

  // ---- The draw.

  // About -log(u), to 2^-19 of itself.
  PELAGIC_ROW_CODE static float minus_log(std::uint32_t word) {
    if (word < 0x80000000u) return -logf((static_cast<float>(word) + 0.5f) * 0x1p-32f);
    return -log1pf((static_cast<float>(~word) + 0.5f) * -0x1p-32f);  // 1 - u keeps its bits where u is near 1
  }

  // e^(z + g) is e^z / -log(u). f(id, distance, word, about that).
  template <typename F>
  PELAGIC_ROW_CODE void for_each_score(F f) const {
    PELAGIC_ROW_ROLLED
    for (int four = team_.thread(); four < count_; four += Team::kThreads) {
      const Four d = fours_[four];
      const auto group = static_cast<std::uint32_t>(first_four_ + four);
      bool drawn[4];
      bool any = false;
      PELAGIC_ROW_UNROLL
      for (int j = 0; j < 4; ++j) {
        drawn[j] = d.v[j] < kHopeless && is_kept(group * 4 + j, d.v[j]);
        any = any || drawn[j];
      }
      if (!any) continue;
      const auto words = noise_words(p_.seed, p_.choice, p_.position, group);
      PELAGIC_ROW_UNROLL
      for (int j = 0; j < 4; ++j) {
        if (!drawn[j]) continue;
        const float probability = team_.exp(-d.v[j]);
        if (probability < p_.min_p) continue;
        f(group * 4 + j, d.v[j], words[j], probability / minus_log(words[j]));
      }
    }
  }

  // In float32 first. Both factors of a score are right to 2^-19, so what is 2^-16 below the best score is not the
  // largest: what remains, one id as a rule, is settled with all bits.
  PELAGIC_ROW_CODE std::uint32_t draw() {
    float best = 0.0f;
    float second = 0.0f;
    std::uint32_t best_id = 0, best_word = 0;
    float best_distance = 0.0f;
    for_each_score([&](std::uint32_t id, float d, std::uint32_t word, float score) {
      if (score > best) {
        second = best;
        best = score;
        best_id = id;
        best_word = word;
        best_distance = d;
      } else if (score > second) {
        second = score;
      }
    });
    const Ranked highest = best_of_all({std::bit_cast<std::uint32_t>(best), 0});
    const float enough = std::bit_cast<float>(static_cast<std::uint32_t>(highest.value)) * (1.0f - 0x1p-16f);
    Ranked winner = kNone;
    const auto settle = [&](std::uint32_t id, float d, std::uint32_t word) {
      const Ranked mine{order_of(with_noise(-d, word)), id};
      if (is_better(mine, winner)) winner = mine;
    };
    if (second >= enough)
      for_each_score([&](std::uint32_t id, float d, std::uint32_t word, float score) {
        if (score >= enough) settle(id, d, word);
      });
    else if (best >= enough)
      settle(best_id, best_distance, best_word);
    return static_cast<std::uint32_t>(best_of_all(winner).id);
  }

  // ---- Logprobs, of the logits as they came.

  // Of raw logits: the best has the lowest.
  PELAGIC_ROW_CODE static std::uint32_t raw_key(float logit) { return ~order_of(number(logit)); }

  // f(id, logit) for this thread's part of the row, read again.
  template <typename F>
  PELAGIC_ROW_CODE void for_each_logit(F f) const {
    PELAGIC_ROW_ROLLED
    for (int four = team_.thread(); four < count_; four += Team::kThreads) {
      const Four x = load(first_four_ + four);
      PELAGIC_ROW_UNROLL
      for (int j = 0; j < 4; ++j) {
        const int id = (first_four_ + four) * 4 + j;
        if (id < vocab_) f(static_cast<std::uint32_t>(id), x.v[j]);
      }
    }
  }

  PELAGIC_ROW_CODE void report_logprobs(const Ranked& mine, std::uint32_t token, SampledRow& out) {
    const float largest = number_of_order(static_cast<std::uint32_t>(best_of_all(mine).value));
    const double log_sum = log_of_weights(sum_over_logits([&](std::uint32_t, float x) {
      const float logit = number(x);
      return logit == largest ? kWholeWeight : integer_weight(team_.exp(logit - largest));
    }));
    const std::uint32_t key = raw_key(logits_[token]);
    const std::uint64_t better = sum_over_logits([&](std::uint32_t id, float x) {
      const std::uint32_t other = raw_key(x);
      return std::uint64_t{other < key || (other == key && id < token) ? 1u : 0u};
    });
    const int wanted = p_.logprobs < vocab_ ? p_.logprobs : vocab_;
    const int tops = wanted < kMostTopLogprobs ? wanted : kMostTopLogprobs;
    if (first_of_all()) {
      out.logprob = log_probability(logits_[token], largest, log_sum);
      out.rank = static_cast<std::int32_t>(better) + 1;
      out.tops = tops;
    }
    if (tops > 0) report_tops(tops, largest, log_sum, out);
  }

  // Of amount(id, logit), in all threads.
  template <typename Amount>
  PELAGIC_ROW_CODE std::uint64_t sum_over_logits(Amount amount) {
    std::uint64_t own = 0;
    for_each_logit([&](std::uint32_t id, float x) { own += amount(id, x); });
    std::uint64_t* const sums = shared_.bins[bins_turn_];
    bins_turn_ ^= 1;
    std::uint64_t of_block = 0;
    team_.sum_up_to(own, &of_block);
    if (team_.thread() == 0) sums[0] = of_block;
    team_.sync_all();
    std::uint64_t sum = 0;
    PELAGIC_ROW_UNROLL
    for (int block = 0; block < Team::kBlocks; ++block) sum += *team_.peer(&sums[0], block);
    return sum;
  }

  PELAGIC_ROW_CODE void report_tops(int tops, float largest, double log_sum, SampledRow& out) {
    const auto wanted = static_cast<std::uint64_t>(tops);
    // The first ranges reach two octaves down from the largest logit.
    const Cut cut = find_cut(
        raw_key(largest), raw_key(largest), 15, raw_key(-std::numeric_limits<float>::infinity()),
        [&](auto f) {
          for_each_logit([&](std::uint32_t, float x) { f(raw_key(x), [] { return std::uint64_t{1}; }); });
        },
        [&](std::uint64_t) { return wanted; });
    std::uint32_t last_id = kEveryId;
    if (wanted - cut.before < cut.at)
      last_id = last_tied_id(wanted - cut.before, [&](auto f) {
        for_each_logit([&](std::uint32_t id, float x) {
          if (raw_key(x) == cut.key) f(id);
        });
      });
    // Each block notes its own; the first one puts them in order.
    for_each_logit([&](std::uint32_t id, float x) {
      const std::uint32_t key = raw_key(x);
      if (key < cut.key || (key == cut.key && id <= last_id))
        shared_.top[team_.add(&shared_.tops, 1u)] = static_cast<std::uint64_t>(key) << 32 | id;
    });
    team_.sync_all();
    if (team_.block() != 0) return;
    constexpr int kPlaces = Team::kBlocks * kMostTopLogprobs;
    PELAGIC_ROW_ROLLED
    for (int i = team_.thread(); i < kPlaces; i += Team::kThreads) {
      const int block = i / kMostTopLogprobs;
      const std::uint32_t place = static_cast<std::uint32_t>(i % kMostTopLogprobs);
      const bool noted = place < *team_.peer(&shared_.tops, block);
      shared_.all_tops[i] = noted ? *team_.peer(&shared_.top[place], block) : ~std::uint64_t{0};
    }
    team_.sync();
    PELAGIC_ROW_ROLLED
    for (int i = team_.thread(); i < kPlaces; i += Team::kThreads) {
      const std::uint64_t mine = shared_.all_tops[i];
      if (mine == ~std::uint64_t{0}) continue;
      int rank = 0;
      PELAGIC_ROW_ROLLED
      for (int other = 0; other < kPlaces; ++other) rank += shared_.all_tops[other] < mine ? 1 : 0;
      const auto id = static_cast<std::uint32_t>(mine);
      out.top_tokens[rank] = id;
      out.top_logprobs[rank] = log_probability(logits_[id], largest, log_sum);
    }
  }

  Team& team_;
  Shared& shared_;
  Four* const fours_;
  const PackedSampling& p_;
  const char* const packed_;
  const float* const logits_;
  const int vocab_;
  int first_four_;
  int count_;
  int best_turn_ = 0;
  int bins_turn_ = 0;
  std::uint32_t last_key_ = kFarthest;
  std::uint32_t last_id_ = kEveryId;
};

}  // namespace pelagic

#include "node/convert_ranks.h"

#include <algorithm>

#include "graph/error.h"
#include "node/convert.h"

namespace pelagic {
namespace {

constexpr int kMostRanks = 1024;
constexpr int kMostSlots = 1 << 16;

[[noreturn]] void refuse(const std::string& what) { throw Error(ErrorCode::argument, what); }

template <std::size_t N>
std::array<std::uint8_t, N> fixed_bytes(const Napi::Value& value, const std::string& name) {
  const auto bytes = to_bytes(value, name);
  if (bytes.size() != N) refuse(name + " has " + std::to_string(bytes.size()) + " bytes, not " + std::to_string(N));
  std::array<std::uint8_t, N> out;
  std::copy(bytes.begin(), bytes.end(), out.begin());
  return out;
}

int integer(const Napi::Object& object, const char* name, const std::string& where, std::int64_t low,
            std::int64_t high) {
  return static_cast<int>(to_integer(member(object, name, where), where + name, low, high));
}

std::chrono::milliseconds milliseconds(const Napi::Object& object, const char* name) {
  return std::chrono::milliseconds(integer(object, name, "", 1, 3'600'000));
}

Napi::Object object_member(const Napi::Object& object, const char* name, const std::string& where) {
  const Napi::Value value = member(object, name, where);
  if (!value.IsObject()) refuse(where + name + " must be an object");
  return value.As<Napi::Object>();
}

}  // namespace

ExpertPlan read_plan(const Napi::Object& plan, const std::string& where) {
  ExpertPlan out;
  out.version = static_cast<std::uint64_t>(integer(plan, "version", where, 1, INT32_MAX));
  out.rank_count = integer(plan, "rankCount", where, 1, kMostRanks);
  out.slots_per_rank = integer(plan, "slotsPerRank", where, 1, kMostSlots);
  const Napi::Value layers = member(plan, "layers", where);
  if (!layers.IsArray()) refuse(where + "layers must be an array");
  for (std::uint32_t layer = 0; layer < layers.As<Napi::Array>().Length(); ++layer) {
    const std::string name = where + "layers[" + std::to_string(layer) + "]";
    const Napi::Value slots = layers.As<Napi::Array>().Get(layer);
    if (!slots.IsArray()) refuse(name + " must be an array");
    std::vector<std::int32_t>& row = out.layers.emplace_back();
    for (std::uint32_t slot = 0; slot < slots.As<Napi::Array>().Length(); ++slot) {
      row.push_back(static_cast<std::int32_t>(
          to_integer(slots.As<Napi::Array>().Get(slot), name + "[" + std::to_string(slot) + "]", -1, INT32_MAX)));
    }
  }
  return out;
}

RankOptions read_rank_options(const Napi::Object& ranks) {
  const std::string where = "ranks.";
  RankOptions out;
  out.plan = read_plan(object_member(ranks, "plan", where), where + "plan.");
  out.view.rank = integer(ranks, "rank", where, 0, kMostRanks - 1);
  out.view.ranks_per_node = integer(ranks, "ranksPerNode", where, 1, kMostRanks);
  out.view.local_first = member(ranks, "localFirst", where).ToBoolean();
  out.host = to_text(member(ranks, "host", where), where + "host");
  out.port = static_cast<std::uint16_t>(integer(ranks, "port", where, 0, UINT16_MAX));
  out.secret = fixed_bytes<32>(member(ranks, "secret", where), where + "secret");
  return out;
}

Meeting read_meeting(const Napi::Object& meeting) {
  Meeting out;
  out.group = fixed_bytes<16>(member(meeting, "group"), "group");
  const Napi::Value ranks = member(meeting, "ranks");
  if (!ranks.IsArray()) refuse("ranks must be an array");
  for (std::uint32_t i = 0; i < ranks.As<Napi::Array>().Length(); ++i) {
    const std::string name = "ranks[" + std::to_string(i) + "]";
    const Napi::Value value = ranks.As<Napi::Array>().Get(i);
    RankAddress& address = out.ranks.emplace_back();
    address.member = !value.IsNull();
    if (!address.member) continue;
    if (!value.IsObject()) refuse(name + " must be an object or null");
    const auto object = value.As<Napi::Object>();
    address.host = to_text(member(object, "host", name + "."), name + ".host");
    address.port = static_cast<std::uint16_t>(integer(object, "port", name + ".", 1, UINT16_MAX));
    address.secret = fixed_bytes<32>(member(object, "secret", name + "."), name + ".secret");
  }
  out.times.meet = milliseconds(meeting, "meetMs");
  out.times.silence = milliseconds(meeting, "silenceMs");
  out.times.longest_wait = milliseconds(meeting, "longestWaitMs");
  return out;
}

Napi::Object to_js(Napi::Env env, const ExpertPlan& plan) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("version", Napi::Number::New(env, static_cast<double>(plan.version)));
  out.Set("rankCount", Napi::Number::New(env, plan.rank_count));
  out.Set("slotsPerRank", Napi::Number::New(env, plan.slots_per_rank));
  const Napi::Array layers = Napi::Array::New(env, plan.layers.size());
  for (std::uint32_t layer = 0; layer < plan.layers.size(); ++layer) {
    const auto& slots = plan.layers[layer];
    const Napi::Array row = Napi::Array::New(env, slots.size());
    for (std::uint32_t slot = 0; slot < slots.size(); ++slot) row.Set(slot, Napi::Number::New(env, slots[slot]));
    layers.Set(layer, row);
  }
  out.Set("layers", layers);
  return out;
}

Napi::Object to_js(Napi::Env env, const PlacementState& state) {
  Napi::Object out = Napi::Object::New(env);
  const auto number = [&](const char* name, double value) { out.Set(name, Napi::Number::New(env, value)); };
  number("version", static_cast<double>(state.version));
  number("layersTaken", state.layers_taken);
  number("next", static_cast<double>(state.next));
  number("readyLayers", state.ready_layers);
  out.Set("failure", Napi::String::New(env, state.failure));
  number("loadedExperts", static_cast<double>(state.loaded_experts));
  number("loadedBytes", static_cast<double>(state.loaded_bytes));
  return out;
}

Napi::Object to_js(Napi::Env env, const RankCounters& counters) {
  Napi::Object out = Napi::Object::New(env);
  const auto number = [&](const char* name, double value) { out.Set(name, Napi::Number::New(env, value)); };
  number("steps", static_cast<double>(counters.steps));
  number("emptySteps", static_cast<double>(counters.empty_steps));
  number("keptCopies", static_cast<double>(counters.kept_copies));
  number("nodeCopies", static_cast<double>(counters.node_copies));
  number("farCopies", static_cast<double>(counters.far_copies));
  number("computedRows", static_cast<double>(counters.computed_rows));
  number("sentBytes", static_cast<double>(counters.sent_bytes));
  number("cardBytes", static_cast<double>(counters.card_bytes));
  number("waitSeconds", counters.wait_seconds);
  number("expertSeconds", counters.expert_seconds);
  number("criticalExpertSeconds", counters.critical_expert_seconds);
  number("criticalStepSeconds", counters.critical_step_seconds);
  number("criticalComputedRows", static_cast<double>(counters.critical_computed_rows));
  const Napi::Array reached = Napi::Array::New(env, counters.nodes_reached.size());
  for (std::size_t i = 0; i < counters.nodes_reached.size(); ++i)
    reached.Set(static_cast<std::uint32_t>(i), Napi::Number::New(env, static_cast<double>(counters.nodes_reached[i])));
  out.Set("nodesReached", reached);
  return out;
}

}  // namespace pelagic

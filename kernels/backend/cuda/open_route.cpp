#include "backend/cuda/open_route.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>

#include "backend/cuda/staged_route.h"

namespace pelagic::cuda {
namespace {

template <typename T>
std::vector<T> greet(RankGroup& group, const T& mine) {
  const auto all = group.greet(std::as_bytes(std::span(&mine, 1)));
  std::vector<T> members;
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    if (!group.view().members[rank]) continue;
    if (all[rank].size() != sizeof(T))
      throw Error(ErrorCode::rank_lost, "rank " + std::to_string(rank) + " has another CUDA backend than rank " +
                                            std::to_string(group.rank()));
    std::memcpy(&members.emplace_back(), all[rank].data(), sizeof(T));
  }
  return members;
}

CardGreeting own_greeting(const NcclLibrary* nccl) {
  CardGreeting mine = {};
  if (nccl != nullptr) mine.nccl_version = static_cast<std::uint32_t>(nccl->version);
  cudaDeviceProp properties = {};
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  static_assert(sizeof mine.uuid == sizeof properties.uuid);
  std::memcpy(mine.uuid, &properties.uuid, sizeof mine.uuid);
  return mine;
}

}  // namespace

bool cards_can_connect(std::span<const CardGreeting> members) {
  if (members.size() < 2) return false;
  for (std::size_t i = 0; i < members.size(); ++i) {
    if (members[i].nccl_version == 0 || members[i].nccl_version != members[0].nccl_version) return false;
    for (std::size_t j = 0; j < i; ++j) {
      if (std::memcmp(members[i].uuid, members[j].uuid, sizeof members[i].uuid) == 0) return false;
    }
  }
  return true;
}

std::unique_ptr<RowRoute> open_route(RankGroup& group, cudaStream_t stream, NcclRoute::Send send) {
  const NcclLibrary* nccl = open_nccl();
  const std::vector<CardGreeting> members = greet(group, own_greeting(nccl));
  if (!cards_can_connect(members)) return std::make_unique<StagedRoute>(stream);

  // The first member's id is taken. Who has none, or does not come through, takes all others to host memory.
  const auto& there = group.view().members;
  const int index = static_cast<int>(std::count(there.begin(), there.begin() + group.rank(), true));
  NcclId id = {};
  bool is_good = index > 0 || nccl->get_unique_id(&id) == kNcclSuccess;
  id = greet(group, id).front();
  std::unique_ptr<NcclGroup> cards;
  try {
    if (is_good) cards = std::make_unique<NcclGroup>(*nccl, id, index, static_cast<int>(members.size()), group);
  } catch (const Error&) {
    throw;
  } catch (const std::runtime_error& error) {
    std::fprintf(stderr, "%s: rows of experts go through host memory\n", error.what());
  }
  const std::vector<char> came_through = greet(group, static_cast<char>(cards != nullptr));
  if (std::count(came_through.begin(), came_through.end(), 1) != static_cast<std::ptrdiff_t>(members.size()))
    return std::make_unique<StagedRoute>(stream);
  return std::make_unique<NcclRoute>(stream, std::move(send), std::move(cards), group);
}

}  // namespace pelagic::cuda

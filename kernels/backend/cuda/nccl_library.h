// What is used of libnccl.so.2, opened at run time: a build needs nothing of NCCL, and a machine without it sends rows
// through host memory.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>

namespace pelagic::cuda {

// Declarations of nccl.h's C interface, version 2.14 (non-blocking communicators) and later.
struct NcclId {
  std::array<char, 128> bytes;
};
struct NcclConfig {
  std::size_t size = sizeof(NcclConfig);
  unsigned magic = 0xcafebeef;
  unsigned version = 21400;  // whose fields these are; the library fills in those of later ones
  int blocking = 0;
};
using NcclComm = void*;
inline constexpr int kNcclSuccess = 0;
inline constexpr int kNcclInProgress = 7;
inline constexpr int kNcclBytes = 0;  // ncclInt8

struct NcclLibrary {
  int (*get_version)(int* version);
  const char* (*get_error_string)(int result);
  int (*get_unique_id)(NcclId* id);
  int (*init_rank)(NcclComm* comm, int ranks, NcclId id, int rank, NcclConfig* config);
  int (*get_async_error)(NcclComm comm, int* result);
  int (*abort)(NcclComm comm);
  int (*group_start)();
  int (*group_end)();
  int (*send)(const void* from, std::size_t count, int type, int peer, NcclComm comm, cudaStream_t stream);
  int (*receive)(void* to, std::size_t count, int type, int peer, NcclComm comm, cudaStream_t stream);
  int version;
};

// Null where there is none, or one older than 2.14. Opened once, and never closed.
const NcclLibrary* open_nccl();

}  // namespace pelagic::cuda

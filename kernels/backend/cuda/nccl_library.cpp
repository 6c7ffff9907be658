#include "backend/cuda/nccl_library.h"

#include <dlfcn.h>

namespace pelagic::cuda {
namespace {

constexpr const char* kLibraryName = "libnccl.so.2";
constexpr int kOldest = 21400;

template <typename F>
bool find(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(library, name));
  return function != nullptr;
}

bool load(NcclLibrary& nccl) {
  void* library = dlopen(kLibraryName, RTLD_NOW | RTLD_LOCAL);
  return library != nullptr && find(library, "ncclGetVersion", nccl.get_version) &&
         find(library, "ncclGetErrorString", nccl.get_error_string) &&
         find(library, "ncclGetUniqueId", nccl.get_unique_id) &&
         find(library, "ncclCommInitRankConfig", nccl.init_rank) &&
         find(library, "ncclCommGetAsyncError", nccl.get_async_error) && find(library, "ncclCommAbort", nccl.abort) &&
         find(library, "ncclGroupStart", nccl.group_start) && find(library, "ncclGroupEnd", nccl.group_end) &&
         find(library, "ncclSend", nccl.send) && find(library, "ncclRecv", nccl.receive) &&
         nccl.get_version(&nccl.version) == kNcclSuccess && nccl.version >= kOldest;
}

}  // namespace

const NcclLibrary* open_nccl() {
  static NcclLibrary nccl = {};
  static const bool is_there = load(nccl);
  return is_there ? &nccl : nullptr;
}

}  // namespace pelagic::cuda

#include "backend/cuda/open_cuda_backend.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <string>

namespace pelagic {
namespace {

std::filesystem::path library_path() {
  if (const char* path = std::getenv("PELAGIC_CUDA_LIBRARY")) return path;
  Dl_info own = {};
  static const char here = 0;  // an address inside of this file's program or addon
  if (dladdr(&here, &own) == 0 || own.dli_fname == nullptr) return "pelagic_cuda.so";
  return std::filesystem::absolute(own.dli_fname).parent_path() / "pelagic_cuda.so";
}

}  // namespace

std::unique_ptr<Backend> open_cuda_backend(CudaWeights weights) {
  const std::filesystem::path path = library_path();
  if (!std::filesystem::exists(path)) {
    throw Error(ErrorCode::device, "the CUDA backend is not built: " + path.string() +
                                       " is missing (kernels/cuda/README.md says how to build it)");
  }
  // Stays open: its code must outlive every backend.
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* reason = dlerror();
    throw Error(ErrorCode::device,
                path.string() + " cannot be opened: " + (reason != nullptr ? reason : "no reason given"));
  }
  const auto open = reinterpret_cast<CudaPluginOpen*>(dlsym(library, kCudaPluginOpen));
  if (open == nullptr) throw Error(ErrorCode::device, path.string() + " is not Pelagic's CUDA backend");
  CudaPluginFailure failure = {ErrorCode::internal, ""};
  std::unique_ptr<Backend> backend(open(PELAGIC_INTERFACE_ID, weights, &failure));
  if (backend == nullptr) throw Error(failure.code, failure.message);
  return backend;
}

}  // namespace pelagic

// The entry that the engine calls (cuda_plugin.h).
#include "backend/cuda/cuda_plugin.h"

#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <type_traits>

#include "backend/cuda/cuda_backend.h"

namespace pelagic::cuda {
namespace {

// Throws Error(device) where there is no card that the kernels run on.
void check_device() {
  const auto refuse = [](const std::string& what) { throw Error(ErrorCode::device, what); };
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorInsufficientDriver)
    refuse("no NVIDIA driver, or one older than 580, is installed: the CUDA backend needs it");
  if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0))
    refuse("no GPU is visible: the CUDA backend needs an H100 or H200 (is CUDA_VISIBLE_DEVICES set?)");
  check(error, "cudaGetDeviceCount");
  cudaDeviceProp properties = {};
  check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  if (properties.major != 9 || properties.minor != 0) {
    refuse(std::string("the GPU is a ") + properties.name + " of compute capability " +
           std::to_string(properties.major) + "." + std::to_string(properties.minor) +
           ": the CUDA backend needs 9.0 (H100, H200)");
  }
}

}  // namespace
}  // namespace pelagic::cuda

extern "C" __attribute__((visibility("default"))) pelagic::Backend* pelagic_cuda_open(
    const char* interface_id, pelagic::CudaWeights weights, pelagic::CudaPluginFailure* failure) {
  using namespace pelagic;
  const auto fail = [&](ErrorCode code, const char* message) -> Backend* {
    failure->code = code;
    std::snprintf(failure->message, sizeof failure->message, "%s", message);
    return nullptr;
  };
  if (std::string(interface_id) != PELAGIC_INTERFACE_ID)
    return fail(ErrorCode::device, "pelagic_cuda.so was built from other sources than this engine: build both again");
  try {
    // First, so that an image that lacks it says so on any machine.
    GemmCudaLibrary::check_installed();
    cuda::check_device();
    return new cuda::CudaBackend(weights);
  } catch (const Error& error) {
    return fail(error.code(), error.what());
  } catch (const std::bad_alloc&) {
    return fail(ErrorCode::memory, "not enough memory for the CUDA backend");
  } catch (const std::exception& error) {
    return fail(ErrorCode::device, error.what());
  }
}
static_assert(std::is_same_v<decltype(pelagic_cuda_open), pelagic::CudaPluginOpen>);

// The card's memory for the backend, its errors, and pinned host memory.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

#include "graph/error.h"

namespace pelagic::cuda {

// A CUDA call that failed becomes the one error the engine knows for that: after it only a new process is sound.
inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  throw Error(ErrorCode::device, std::string("the GPU failed at ") + what + ": " + cudaGetErrorName(error) + " (" +
                                     cudaGetErrorString(error) + "); the process must be restarted");
}

// Of our kernels. What they do not take is no failure of the card: the process stays sound.
inline void check_launch(cudaError_t error, const char* what) {
  if (error == cudaErrorInvalidValue) {
    cudaGetLastError();  // not a sticky one
    throw Error(ErrorCode::argument, std::string("the CUDA backend has no kernel for this model's shapes: ") + what);
  }
  check(error, what);
}

// What a library or the driver throws is the GPU's failure too.
template <typename Fn>
decltype(auto) guarded(const char* what, const Fn& fn) {
  try {
    return fn();
  } catch (const std::invalid_argument& error) {
    throw Error(ErrorCode::argument, std::string("the CUDA backend: ") + what + ": " + error.what());
  } catch (const Error&) {
    throw;
  } catch (const std::runtime_error& error) {
    throw Error(ErrorCode::device,
                std::string("the GPU failed at ") + what + ": " + error.what() + "; the process must be restarted");
  }
}

// Device or pinned host memory that frees itself. Growing keeps nothing of what was there.
template <bool kPinnedHost>
class Memory {
 public:
  Memory() = default;
  // Throws Error(memory) with the sizes.
  explicit Memory(std::size_t bytes) { grow(bytes); }
  Memory(Memory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Memory() { release(); }

  void grow(std::size_t bytes) {
    release();
    if (bytes == 0) return;
    const cudaError_t error =
        kPinnedHost ? cudaHostAlloc(&data_, bytes, cudaHostAllocDefault) : cudaMalloc(&data_, bytes);
    if (error == cudaErrorMemoryAllocation) {
      data_ = nullptr;
      cudaGetLastError();  // not a sticky one
      if (kPinnedHost) throw Error(ErrorCode::memory, "no " + std::to_string(bytes) + " bytes of pinned host memory");
      std::size_t free = 0, total = 0;
      cudaMemGetInfo(&free, &total);
      throw Error(ErrorCode::memory, "the GPU has no room for " + std::to_string(bytes) + " bytes more: " +
                                         std::to_string(free) + " of its " + std::to_string(total) + " are free");
    }
    check(error, "an allocation");
    bytes_ = bytes;
    ++grown_;
  }

  template <typename T = void>
  T* get() const {
    return static_cast<T*>(data_);
  }
  std::size_t bytes() const { return bytes_; }

  // How often memory of this kind has been taken in this process.
  static std::uint64_t grown() { return grown_; }

 private:
  static inline std::atomic<std::uint64_t> grown_ = 0;

  void release() {
    if (data_ != nullptr) kPinnedHost ? cudaFreeHost(data_) : cudaFree(data_);
    data_ = nullptr;
    bytes_ = 0;
  }

  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

// Returns when the card has it.
inline void upload(void* to, const void* from, std::size_t bytes) {
  check(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), "a copy of weights");
  // cudaMemcpy may return before, and the step's stream waits for nobody.
  check(cudaStreamSynchronize(cudaStreamLegacy), "a copy of weights");
}

using DeviceMemory = Memory<false>;
using PinnedMemory = Memory<true>;

}  // namespace pelagic::cuda

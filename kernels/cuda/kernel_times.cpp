#include "cuda/kernel_times.h"

#include <cupti.h>
#include <cxxabi.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

namespace pelagic {
namespace {

constexpr const char* kLibraryName = "libcupti.so.13";
constexpr std::size_t kBufferBytes = std::size_t{8} << 20;

// The library calls back without an argument of ours: there is one of these.
decltype(&cuptiActivityGetNextRecord) next_record = nullptr;
std::vector<KernelRun> runs;

// "void pelagic::(anonymous namespace)::kernel<4>(Arguments)" -> "kernel".
std::string short_name(const char* mangled) {
  int status = 0;
  char* demangled = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
  std::string name = status == 0 ? demangled : mangled;
  std::free(demangled);
  constexpr const char* kAnonymous = "(anonymous namespace)::";
  for (std::size_t at; (at = name.find(kAnonymous)) != std::string::npos;)
    name.erase(at, std::char_traits<char>::length(kAnonymous));
  name.resize(std::min(name.find_first_of("<("), name.size()));
  const std::size_t start = name.find_last_of(" :");
  return start == std::string::npos ? name : name.substr(start + 1);
}

void CUPTIAPI give_buffer(std::uint8_t** buffer, std::size_t* size, std::size_t* most_records) {
  *buffer = static_cast<std::uint8_t*>(std::aligned_alloc(16, kBufferBytes));
  *size = kBufferBytes;
  *most_records = 0;
}

void CUPTIAPI take_buffer(CUcontext, std::uint32_t, std::uint8_t* buffer, std::size_t, std::size_t valid) {
  CUpti_Activity* record = nullptr;
  while (next_record(buffer, valid, &record) == CUPTI_SUCCESS) {
    const auto& kernel = *reinterpret_cast<const CUpti_ActivityKernel10*>(record);
    if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL || record->kind == CUPTI_ACTIVITY_KIND_KERNEL)
      runs.push_back({short_name(kernel.name), kernel.gridX * kernel.gridY * kernel.gridZ, kernel.start, kernel.end});
  }
  std::free(buffer);
}

}  // namespace

KernelTimes::KernelTimes() {
  void* library = dlopen(kLibraryName, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr)
    throw std::runtime_error(std::string(kLibraryName) + " cannot be opened: add CUPTI's folder to LD_LIBRARY_PATH");
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(library, name));
    if (function == nullptr) throw std::runtime_error(std::string(kLibraryName) + " has no " + name);
  };
  decltype(&cuptiActivityRegisterCallbacks) register_callbacks = nullptr;
  decltype(&cuptiActivityEnable) enable = nullptr;
  find(register_callbacks, "cuptiActivityRegisterCallbacks");
  find(enable, "cuptiActivityEnable");
  find(next_record, "cuptiActivityGetNextRecord");
  find(flush_, "cuptiActivityFlushAll");
  if (register_callbacks(give_buffer, take_buffer) != CUPTI_SUCCESS ||
      enable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) != CUPTI_SUCCESS)
    throw std::runtime_error("CUPTI does not note kernels on this machine");
}

std::vector<KernelRun> KernelTimes::take() {
  flush_(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
  std::vector<KernelRun> out;
  out.swap(runs);
  std::sort(out.begin(), out.end(), [](const KernelRun& a, const KernelRun& b) { return a.begin_ns < b.begin_ns; });
  return out;
}

}  // namespace pelagic

#include "base/large_memory.h"

#include <sys/mman.h>

#include <mutex>
#include <new>

namespace pelagic {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kChunkBytes = std::size_t{32} << 20;
constexpr std::size_t kLine = 64;

struct Chunk {
  explicit Chunk(std::size_t size) : bytes(size) {
    // One huge page more, to begin on the boundary of one.
    mapped_bytes = bytes + kHugePage;
    mapped = mmap(nullptr, mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) throw std::bad_alloc();
    const auto address = reinterpret_cast<std::size_t>(mapped);
    begin = reinterpret_cast<std::byte*>((address + kHugePage - 1) / kHugePage * kHugePage);
    madvise(begin, bytes, MADV_HUGEPAGE);  // advice: without it everything works, slower
  }
  ~Chunk() { munmap(mapped, mapped_bytes); }
  Chunk(const Chunk&) = delete;
  Chunk& operator=(const Chunk&) = delete;

  std::size_t bytes;
  std::size_t used = 0;
  std::byte* begin = nullptr;
  void* mapped = nullptr;
  std::size_t mapped_bytes = 0;
};

}  // namespace

std::shared_ptr<std::byte[]> large_memory(std::size_t bytes) {
  // Held weakly: a chunk lives as long as what is in it.
  static std::mutex mutex;
  static std::weak_ptr<Chunk> current;
  if (bytes > static_cast<std::size_t>(-1) - 2 * kHugePage) throw std::bad_alloc();
  bytes = (bytes + kLine - 1) / kLine * kLine;
  const std::lock_guard lock(mutex);
  std::shared_ptr<Chunk> chunk = current.lock();
  if (chunk == nullptr || chunk->bytes - chunk->used < bytes) {
    const std::size_t size = bytes > kChunkBytes ? (bytes + kHugePage - 1) / kHugePage * kHugePage : kChunkBytes;
    chunk = std::make_shared<Chunk>(size);
    // What fills a chunk of its own leaves the current one open.
    if (size == kChunkBytes) current = chunk;
  }
  std::byte* data = chunk->begin + chunk->used;
  chunk->used += bytes;
  return {chunk, data};
}

}  // namespace pelagic

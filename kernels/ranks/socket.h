// TCP sockets of numeric addresses, non-blocking.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>

namespace pelagic {

// Owns a descriptor.
class Socket {
 public:
  Socket() = default;
  explicit Socket(int descriptor) : descriptor_(descriptor) {}
  Socket(Socket&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~Socket();

  int get() const { return descriptor_; }
  explicit operator bool() const { return descriptor_ >= 0; }

 private:
  int descriptor_ = -1;
};

using Deadline = std::chrono::steady_clock::time_point;

// All throw Error(argument) naming the address if it is none, Error(internal) with the system's reason otherwise.
Socket listen_at(const std::string& host, std::uint16_t port);
std::uint16_t port_of(const Socket& socket);
// Empty where nobody has answered by the deadline, or refused; `reason` says which.
Socket connect_to(const std::string& host, std::uint16_t port, Deadline deadline, std::string& reason);
// Empty where nobody waits.
Socket accept_from(int listener);

// Waits until the descriptor can be read (or written, or is broken); false: the deadline came first.
bool wait_for(int descriptor, short events, Deadline deadline);
// Exactly `size` bytes, by the deadline; false: closed, broken or late.
bool read_all(int descriptor, void* bytes, std::size_t size, Deadline deadline);
// in_vain: asked while no byte is taken, true ends it before the deadline.
bool write_all(int descriptor, const void* bytes, std::size_t size, Deadline deadline,
               const std::function<bool()>& in_vain = {});

}  // namespace pelagic

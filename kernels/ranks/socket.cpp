#include "ranks/socket.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "graph/error.h"

namespace pelagic {
namespace {

constexpr int kBacklog = 128;
// How often a write that waits asks whether it does so in vain.
constexpr std::chrono::milliseconds kAsk{50};

struct Address {
  sockaddr_storage storage{};
  socklen_t size = 0;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

Address parse_address(const std::string& host, std::uint16_t port) {
  Address address;
  auto* v4 = reinterpret_cast<sockaddr_in*>(&address.storage);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
  if (::inet_pton(AF_INET, host.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    address.size = sizeof *v4;
  } else if (::inet_pton(AF_INET6, host.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    address.size = sizeof *v6;
  } else {
    throw Error(ErrorCode::argument, "host must be a numeric address, not '" + host + "'");
  }
  return address;
}

[[noreturn]] void fail(const std::string& what) {
  throw Error(ErrorCode::internal, what + ": " + std::strerror(errno));
}

Socket open_socket(const Address& address) {
  Socket socket(::socket(address.storage.ss_family, SOCK_STREAM, 0));
  if (!socket) fail("a TCP socket");
  ::fcntl(socket.get(), F_SETFD, FD_CLOEXEC);
  ::fcntl(socket.get(), F_SETFL, O_NONBLOCK);
  return socket;
}

// Messages are small and someone waits for each of them.
void send_at_once(const Socket& socket) {
  const int on = 1;
  ::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

}  // namespace

Socket::~Socket() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

Socket listen_at(const std::string& host, std::uint16_t port) {
  const Address address = parse_address(host, port);
  Socket socket = open_socket(address);
  const int on = 1;
  ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (::bind(socket.get(), address.get(), address.size) != 0 || ::listen(socket.get(), kBacklog) != 0)
    fail("listening for ranks at " + host + " port " + std::to_string(port));
  return socket;
}

std::uint16_t port_of(const Socket& socket) {
  Address address;
  address.size = sizeof address.storage;
  if (::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address.storage), &address.size) != 0)
    fail("the listening port");
  return ntohs(address.storage.ss_family == AF_INET
                   ? reinterpret_cast<const sockaddr_in*>(&address.storage)->sin_port
                   : reinterpret_cast<const sockaddr_in6*>(&address.storage)->sin6_port);
}

Socket connect_to(const std::string& host, std::uint16_t port, Deadline deadline, std::string& reason) {
  const Address address = parse_address(host, port);
  Socket socket = open_socket(address);
  if (::connect(socket.get(), address.get(), address.size) != 0) {
    if (errno != EINPROGRESS) {
      reason = std::strerror(errno);
      return {};
    }
    if (!wait_for(socket.get(), POLLOUT, deadline)) {
      reason = "no answer in time";
      return {};
    }
    int error = 0;
    socklen_t size = sizeof error;
    ::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) {
      reason = std::strerror(error);
      return {};
    }
  }
  send_at_once(socket);
  return socket;
}

Socket accept_from(int listener) {
  Socket socket(::accept(listener, nullptr, nullptr));
  if (!socket) return {};
  ::fcntl(socket.get(), F_SETFD, FD_CLOEXEC);
  ::fcntl(socket.get(), F_SETFL, O_NONBLOCK);
  send_at_once(socket);
  return socket;
}

bool wait_for(int descriptor, short events, Deadline deadline) {
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    pollfd entry{descriptor, events, 0};
    const int ready = ::poll(&entry, 1, static_cast<int>(std::clamp<std::int64_t>(left, 0, 1000)));
    if (ready > 0) return true;
    if (left <= 0 || (ready < 0 && errno != EINTR)) return false;
  }
}

bool read_all(int descriptor, void* bytes, std::size_t size, Deadline deadline) {
  auto* to = static_cast<char*>(bytes);
  while (size > 0) {
    const ssize_t count = ::recv(descriptor, to, size, 0);
    if (count > 0) {
      to += count;
      size -= static_cast<std::size_t>(count);
    } else if (count == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) ||
               !wait_for(descriptor, POLLIN, deadline)) {
      return false;
    }
  }
  return true;
}

bool write_all(int descriptor, const void* bytes, std::size_t size, Deadline deadline,
               const std::function<bool()>& in_vain) {
  const auto* from = static_cast<const char*>(bytes);
  while (size > 0) {
    const ssize_t count = ::send(descriptor, from, size, MSG_NOSIGNAL);
    if (count >= 0) {
      from += count;
      size -= static_cast<std::size_t>(count);
    } else {
      if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) return false;
      const Deadline look = in_vain ? std::min(deadline, std::chrono::steady_clock::now() + kAsk) : deadline;
      if (!wait_for(descriptor, POLLOUT, look) && (look == deadline || in_vain())) return false;
    }
  }
  return true;
}

}  // namespace pelagic

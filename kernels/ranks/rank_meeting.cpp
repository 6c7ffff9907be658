#include "ranks/rank_meeting.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "graph/error.h"

namespace pelagic {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint32_t kHelloMagic = 0x48525850;  // "PXRH"
// Callers that have not said who they are; more are turned away.
constexpr std::size_t kMostStrangers = 64;

// The caller shows that it knows the listener's secret, the answer that the listener knows the caller's.
struct Hello {
  std::uint32_t magic;
  std::uint32_t from;
  std::uint32_t to;
  std::uint32_t rank_count;
  GroupId group;
  RankSecret secret;
};
static_assert(sizeof(Hello) == 64);

Hello make_hello(const GroupId& group, int from, int to, std::size_t rank_count, const RankSecret& secret) {
  return {kHelloMagic,
          static_cast<std::uint32_t>(from),
          static_cast<std::uint32_t>(to),
          static_cast<std::uint32_t>(rank_count),
          group,
          secret};
}

// In a time that does not tell how much of it was right.
bool equal(const Hello& a, const Hello& b) {
  const auto* x = reinterpret_cast<const unsigned char*>(&a);
  const auto* y = reinterpret_cast<const unsigned char*>(&b);
  unsigned char difference = 0;
  for (std::size_t i = 0; i < sizeof(Hello); ++i) difference |= x[i] ^ y[i];
  return difference == 0;
}

[[noreturn]] void absent(std::size_t rank, const std::string& what) {
  throw Error(ErrorCode::rank_lost, "rank " + std::to_string(rank) + " does not come: " + what);
}

// A connection that has been accepted and says hello.
struct Stranger {
  Socket socket;
  Hello hello{};
  std::size_t bytes = 0;
};

// Reads what is there. False: closed or broken.
bool read_hello(Stranger& stranger) {
  for (;;) {
    const ssize_t count = ::recv(stranger.socket.get(), reinterpret_cast<char*>(&stranger.hello) + stranger.bytes,
                                 sizeof(Hello) - stranger.bytes, 0);
    if (count > 0) stranger.bytes += static_cast<std::size_t>(count);
    if (stranger.bytes == sizeof(Hello)) return true;
    if (count > 0 || (count < 0 && errno == EINTR)) continue;
    return count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
  }
}

}  // namespace

RankListener::RankListener(const std::string& host, std::uint16_t port, const RankSecret& secret)
    : socket_(listen_at(host, port)), port_(port_of(socket_)), secret_(secret) {}

std::vector<Socket> connect_ranks(RankListener& listener, const GroupId& group, int rank,
                                  const std::vector<RankAddress>& ranks, std::chrono::milliseconds time) {
  const Deadline deadline = Clock::now() + time;
  const auto self = static_cast<std::size_t>(rank);
  std::vector<Socket> sockets(ranks.size());

  // Each calls those below it, and says hello before it waits for anyone: so all of them get on.
  for (std::size_t to = 0; to < self; ++to) {
    if (!ranks[to].member) continue;
    std::string reason;
    sockets[to] = connect_to(ranks[to].host, ranks[to].port, deadline, reason);
    if (!sockets[to]) absent(to, reason);
    const Hello hello = make_hello(group, rank, static_cast<int>(to), ranks.size(), ranks[to].secret);
    if (!write_all(sockets[to].get(), &hello, sizeof hello, deadline)) absent(to, "the connection is broken");
  }

  const auto missing = [&] {
    std::size_t from = self + 1;
    while (from < ranks.size() && (!ranks[from].member || sockets[from])) ++from;
    return from;
  };
  std::vector<Stranger> strangers;
  while (missing() < ranks.size()) {
    if (Clock::now() >= deadline) absent(missing(), "it has not called");
    std::vector<pollfd> entries{{listener.descriptor(), POLLIN, 0}};
    for (const Stranger& stranger : strangers) entries.push_back({stranger.socket.get(), POLLIN, 0});
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    ::poll(entries.data(), entries.size(), static_cast<int>(std::clamp<std::int64_t>(left, 0, 1000)));
    while (Socket socket = accept_from(listener.descriptor())) {
      if (strangers.size() == kMostStrangers) strangers.erase(strangers.begin());
      strangers.push_back({std::move(socket)});
    }
    for (Stranger& stranger : strangers) {
      if (!read_hello(stranger)) {
        stranger.socket = {};
        continue;
      }
      if (stranger.bytes < sizeof(Hello)) continue;
      const std::size_t from = stranger.hello.from;
      const bool wanted = from > self && from < ranks.size() && ranks[from].member && !sockets[from];
      // One with another group's id comes too early or too late, and calls again.
      if (wanted &&
          equal(stranger.hello, make_hello(group, static_cast<int>(from), rank, ranks.size(), listener.secret()))) {
        const Hello answer = make_hello(group, rank, static_cast<int>(from), ranks.size(), ranks[from].secret);
        if (write_all(stranger.socket.get(), &answer, sizeof answer, deadline))
          sockets[from] = std::move(stranger.socket);
      }
      stranger.socket = {};
    }
    std::erase_if(strangers, [](const Stranger& stranger) { return !stranger.socket; });
  }

  for (std::size_t to = 0; to < self; ++to) {
    if (!ranks[to].member) continue;
    Hello answer{};
    if (!read_all(sockets[to].get(), &answer, sizeof answer, deadline))
      absent(to, "it does not answer, or is of another group");
    if (!equal(answer, make_hello(group, static_cast<int>(to), rank, ranks.size(), listener.secret())))
      absent(to, "its answer is not that of the rank called");
  }
  return sockets;
}

}  // namespace pelagic

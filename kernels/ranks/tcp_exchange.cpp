#include "ranks/tcp_exchange.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <thread>

#include "base/xxh64.h"
#include "graph/error.h"
#include "ranks/inbox.h"
#include "ranks/rank_meeting.h"

namespace pelagic {
namespace {

using Clock = std::chrono::steady_clock;

// Message kinds of the connection itself; those of MessageKind are below.
constexpr std::uint32_t kAlive = 100;
constexpr std::uint32_t kLeave = 101;
constexpr std::uint32_t kLeaveByItself = 102;

bool is_leave(std::uint32_t kind) { return kind == kLeave || kind == kLeaveByItself; }

constexpr std::uint32_t kMagic = 0x31525850;  // "PXR1"
constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 30;
constexpr std::size_t kMostReasonBytes = 1000;
// Signs of life in a silence that would mean loss.
constexpr int kSignsInSilence = 6;

struct FrameHeader {
  std::uint32_t magic;
  std::uint32_t kind;
  std::uint32_t layer;
  std::uint32_t reserved;
  std::uint64_t step;
  std::uint64_t bytes;
  std::uint64_t payload_sum;  // XXH64
  std::uint64_t header_sum;   // of all before it
};
static_assert(sizeof(FrameHeader) == 48);

FrameHeader make_header(std::uint32_t kind, MessageTag tag, std::span<const std::byte> payload) {
  FrameHeader header{kMagic, kind, tag.layer, 0, tag.step, payload.size(), xxh64(payload.data(), payload.size()), 0};
  header.header_sum = xxh64(&header, offsetof(FrameHeader, header_sum));
  return header;
}

GroupEnd lost(int rank, const std::string& what) { return {"rank " + std::to_string(rank) + " is lost: " + what}; }

struct Peer {
  int rank = 0;
  Socket socket;
  std::mutex writing;
  std::vector<std::byte> unsent;  // rest of a sign of life, goes before anything else

  // Of the reading thread:
  FrameHeader header{};
  std::size_t header_bytes = 0;
  std::vector<std::byte> payload;
  std::size_t payload_bytes = 0;
  Clock::time_point heard;
};

class TcpExchange final : public ExpertExchange {
 public:
  TcpExchange(int rank, std::vector<Socket> sockets, const RankTimes& times)
      : rank_(rank), times_(times), inbox_(rank, static_cast<int>(sockets.size()), times.longest_wait) {
    for (std::size_t i = 0; i < sockets.size(); ++i) {
      peers_.push_back(sockets[i] ? std::make_unique<Peer>() : nullptr);
      if (peers_.back() == nullptr) continue;
      peers_.back()->rank = static_cast<int>(i);
      peers_.back()->socket = std::move(sockets[i]);
      peers_.back()->heard = Clock::now();
    }
    int ends[2];
    if (::pipe(ends) != 0) throw Error(ErrorCode::internal, "a pipe for the ranks' thread");
    wake_read_ = Socket(ends[0]);
    wake_write_ = Socket(ends[1]);
    thread_ = std::thread([this] { listen(); });
  }

  ~TcpExchange() override {
    leave(lost(rank_, "it has ended"));
    stopping_ = true;
    const char byte = 0;
    [[maybe_unused]] const ssize_t written = ::write(wake_write_.get(), &byte, 1);
    thread_.join();
  }

  int rank() const override { return rank_; }
  int rank_count() const override { return static_cast<int>(peers_.size()); }
  bool is_member(int rank) const override { return rank == rank_ || peers_[static_cast<std::size_t>(rank)] != nullptr; }

  void send(int to, MessageTag tag, std::span<const std::byte> bytes) override {
    inbox_.check();
    if (bytes.size() > kMostBytes)
      throw Error(ErrorCode::argument, "a message of " + std::to_string(bytes.size()) + " bytes to rank " +
                                           std::to_string(to) + " is too large: make smaller steps");
    const FrameHeader header = make_header(static_cast<std::uint32_t>(tag.kind), tag, bytes);
    Peer& peer = *peers_[static_cast<std::size_t>(to)];
    const std::lock_guard lock(peer.writing);
    const Deadline deadline = Clock::now() + times_.longest_wait;
    if (!write_unsent(peer, deadline) || !write_all(peer.socket.get(), &header, sizeof header, deadline) ||
        !write_all(peer.socket.get(), bytes.data(), bytes.size(), deadline)) {
      // The reading thread may know why.
      inbox_.end(lost(to, Clock::now() < deadline ? "the connection is broken" : "it takes no bytes"));
      inbox_.check();
    }
  }

  std::span<const std::byte> receive(int from, MessageTag tag) override { return inbox_.take(from, tag); }

  void leave(const GroupEnd& end) override {
    if (left_.exchange(true)) return;
    inbox_.end(end);
    const auto text = std::as_bytes(std::span(end.reason.data(), std::min(end.reason.size(), kMostReasonBytes)));
    const FrameHeader header = make_header(end.by_itself ? kLeaveByItself : kLeave, {}, text);
    for (const auto& peer : peers_) {
      if (peer == nullptr) continue;
      const std::lock_guard lock(peer->writing);
      // What does not fit at once is not said: the closed connection says it, too.
      if (write_unsent(*peer, Clock::now()) && write_all(peer->socket.get(), &header, sizeof header, Clock::now()))
        write_all(peer->socket.get(), text.data(), text.size(), Clock::now());
      ::shutdown(peer->socket.get(), SHUT_WR);
    }
  }

  void check() const override { inbox_.check(); }
  bool has_message() const override { return inbox_.has_message(); }
  void on_arrival(std::function<void()> fn) override { inbox_.on_arrival(std::move(fn)); }

 private:
  static bool write_unsent(Peer& peer, Deadline deadline) {
    if (peer.unsent.empty()) return true;
    const bool written = write_all(peer.socket.get(), peer.unsent.data(), peer.unsent.size(), deadline);
    peer.unsent.clear();
    return written;
  }

  // The thread that reads everything, at once: so no write of another rank waits for a step of this one.
  void listen() {
    const auto beat = times_.silence / kSignsInSilence;
    Clock::time_point next_beat = Clock::now() + beat;
    std::vector<pollfd> entries;
    std::vector<Peer*> polled;
    while (!stopping_) {
      entries.assign(1, {wake_read_.get(), POLLIN, 0});
      polled.clear();
      for (const auto& peer : peers_) {
        if (peer == nullptr || inbox_.ended()) continue;
        entries.push_back({peer->socket.get(), POLLIN, 0});
        polled.push_back(peer.get());
      }
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(next_beat - Clock::now()).count();
      const int ready = ::poll(entries.data(), entries.size(),
                               polled.empty() ? -1 : static_cast<int>(std::clamp<std::int64_t>(left, 0, 1000)));
      if (ready < 0 && errno != EINTR) inbox_.end(lost(rank_, "poll failed"));
      for (std::size_t i = 0; i < polled.size(); ++i) {
        if (ready > 0 && entries[i + 1].revents != 0) read_from(*polled[i]);
      }
      if (Clock::now() < next_beat) continue;
      // A process that was stopped itself has heard nobody: what has come meanwhile is read before anyone is judged.
      const bool late = Clock::now() > next_beat + times_.silence / 2;
      next_beat = Clock::now() + beat;
      for (Peer* peer : polled) {
        if (late) peer->heard = Clock::now();
        show_life(*peer);
        if (Clock::now() - peer->heard > times_.silence)
          inbox_.end(lost(peer->rank, "no sign of life for " + std::to_string(times_.silence.count()) + " ms"));
      }
    }
  }

  void show_life(Peer& peer) {
    const std::unique_lock lock(peer.writing, std::try_to_lock);
    if (!lock.owns_lock() || !peer.unsent.empty()) return;  // bytes are under way anyhow
    const FrameHeader header = make_header(kAlive, {}, {});
    const ssize_t count = ::send(peer.socket.get(), &header, sizeof header, MSG_NOSIGNAL);
    if (count <= 0 || count == sizeof header) return;
    const auto bytes = std::as_bytes(std::span(&header, 1));
    peer.unsent.assign(bytes.begin() + count, bytes.end());
  }

  // All that is there. What ends the connection ends the group.
  void read_from(Peer& peer) {
    while (!inbox_.ended()) {
      const bool in_header = peer.header_bytes < sizeof peer.header;
      void* to = in_header ? static_cast<void*>(reinterpret_cast<char*>(&peer.header) + peer.header_bytes)
                           : static_cast<void*>(peer.payload.data() + peer.payload_bytes);
      const std::size_t wanted =
          in_header ? sizeof peer.header - peer.header_bytes : peer.payload.size() - peer.payload_bytes;
      const ssize_t count = ::recv(peer.socket.get(), to, wanted, 0);
      if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) {
        inbox_.end(lost(peer.rank, count == 0 ? "the connection is closed" : std::strerror(errno)));
        return;
      }
      peer.heard = Clock::now();
      if (in_header) {
        peer.header_bytes += static_cast<std::size_t>(count);
        if (peer.header_bytes == sizeof peer.header) take_header(peer);
      } else {
        peer.payload_bytes += static_cast<std::size_t>(count);
      }
      if (peer.header_bytes == sizeof peer.header && peer.payload_bytes == peer.payload.size()) take_message(peer);
    }
  }

  void take_header(Peer& peer) {
    const FrameHeader& header = peer.header;
    const bool sound = header.magic == kMagic &&
                       header.header_sum == xxh64(&header, offsetof(FrameHeader, header_sum)) &&
                       header.bytes <= (is_leave(header.kind)   ? kMostReasonBytes
                                        : header.kind == kAlive ? 0
                                                                : kMostBytes);
    if (!sound) return inbox_.end(lost(peer.rank, "a damaged header came"));
    peer.payload = inbox_.buffer(peer.rank);
    peer.payload.resize(header.bytes);
    peer.payload_bytes = 0;
  }

  void take_message(Peer& peer) {
    const FrameHeader& header = peer.header;
    if (header.payload_sum != xxh64(peer.payload.data(), peer.payload.size()))
      return inbox_.end(lost(peer.rank, "a damaged message came"));
    if (is_leave(header.kind)) {
      inbox_.end({std::string(reinterpret_cast<const char*>(peer.payload.data()), peer.payload.size()),
                  header.kind == kLeaveByItself});
    } else if (header.kind != kAlive) {
      inbox_.put(peer.rank, {static_cast<MessageKind>(header.kind), header.layer, header.step},
                 std::move(peer.payload));
    }
    peer.payload = {};
    peer.header_bytes = 0;
    peer.payload_bytes = 0;
  }

  const int rank_;
  const RankTimes times_;
  Inbox inbox_;
  std::vector<std::unique_ptr<Peer>> peers_;  // by rank; null: this one, or no member
  Socket wake_read_, wake_write_;
  std::atomic<bool> stopping_ = false;
  std::atomic<bool> left_ = false;
  std::thread thread_;
};

}  // namespace

std::unique_ptr<ExpertExchange> meet_ranks(RankListener& listener, const GroupId& group, int rank,
                                           const std::vector<RankAddress>& ranks, const RankTimes& times) {
  return std::make_unique<TcpExchange>(rank, connect_ranks(listener, group, rank, ranks, times.meet), times);
}

}  // namespace pelagic

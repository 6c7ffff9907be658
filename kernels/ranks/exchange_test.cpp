// Both kinds of exchange: messages in order, and no wait without an end.
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

#include "graph/test_checkpoint.h"
#include "ranks/test_group.h"

using namespace pelagic;
using namespace pelagic::test;

namespace {

constexpr RankTimes kTimes{
    .meet = std::chrono::seconds(20), .silence = std::chrono::seconds(20), .longest_wait = std::chrono::seconds(20)};
constexpr Transport kBoth[] = {Transport::local, Transport::tcp};

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }
std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
std::string lost_of(const std::function<void()>& fn) { return error_of(fn, ErrorCode::rank_lost); }

}  // namespace

TEST("messages arrive whole, in order and by sender, whatever their size") {
  for (const Transport transport : kBoth) {
    const int ranks = 4;
    auto exchanges = make_exchanges(transport, ranks, kTimes);
    const auto text = [](int from, int to, int round) {
      return std::string(round % 3 == 0 ? 0 : static_cast<std::size_t>(1 + round * 70'000),
                         static_cast<char>('a' + from * 4 + to));
    };
    const auto failures = on_all_ranks(ranks, [&](int rank) {
      ExpertExchange& exchange = *exchanges[static_cast<std::size_t>(rank)];
      for (int round = 0; round < 9; ++round) {
        const MessageTag tag{MessageKind::rows, 3, static_cast<std::uint64_t>(round)};
        for (int to = 0; to < ranks; ++to) {
          if (to != rank) exchange.send(to, tag, bytes_of(text(rank, to, round)));
        }
        for (int from = 0; from < ranks; ++from) {
          if (from != rank) CHECK(text_of(exchange.receive(from, tag)) == text(from, rank, round));
        }
      }
    });
    for (const auto& failure : failures) CHECK(!failure);
  }
}

TEST("a rank that leaves ends every wait of the others with its reason, behind what it has sent") {
  for (const Transport transport : kBoth) {
    auto exchanges = make_exchanges(transport, 3, kTimes);
    const MessageTag tag{MessageKind::outputs, 1, 5};
    exchanges[2]->send(0, tag, bytes_of("last words"));
    exchanges[2]->leave({"rank 2 is lost: not enough memory"});
    CHECK(text_of(exchanges[0]->receive(2, tag)) == "last words");
    for (const int rank : {0, 1}) {
      auto& exchange = *exchanges[static_cast<std::size_t>(rank)];
      CHECK(lost_of([&] { exchange.receive(2, tag); }) == "rank 2 is lost: not enough memory");
      CHECK(lost_of([&] { exchange.receive(1 - rank, tag); }) == "rank 2 is lost: not enough memory");
      CHECK(lost_of([&] { exchange.send(1 - rank, tag, {}); }) == "rank 2 is lost: not enough memory");
      CHECK(lost_of([&] { exchange.check(); }) == "rank 2 is lost: not enough memory");
    }
  }
}

TEST("a rank that goes on elsewhere has left by itself: others hear that nobody is lost") {
  const auto left_by_itself = [](ExpertExchange& exchange) {
    try {
      exchange.receive(1, {MessageKind::begin, 0, 1});
    } catch (const Error& error) {
      return error.code() == ErrorCode::rank_lost && error.by_itself();
    }
    return false;
  };
  for (const Transport transport : kBoth) {
    for (const bool by_itself : {true, false}) {
      auto exchanges = make_exchanges(transport, 2, kTimes);
      exchanges[1]->leave({"rank 1 has left", by_itself});
      CHECK(left_by_itself(*exchanges[0]) == by_itself);
    }
    auto exchanges = make_exchanges(transport, 2, kTimes);
    exchanges[1].reset();
    CHECK(!left_by_itself(*exchanges[0]));
  }
}

TEST("a rank that is destroyed is lost to the others at once") {
  for (const Transport transport : kBoth) {
    auto exchanges = make_exchanges(transport, 2, kTimes);
    std::jthread other([&] { exchanges[1].reset(); });
    CHECK(contains(lost_of([&] { exchanges[0]->receive(1, {MessageKind::begin, 0, 1}); }), "rank 1 is lost"));
  }
}

TEST("a rank that says nothing is lost after the longest wait, one that is out of step at once") {
  for (const Transport transport : kBoth) {
    RankTimes times = kTimes;
    times.longest_wait = std::chrono::milliseconds(50);
    auto exchanges = make_exchanges(transport, 2, times);
    const std::string message = lost_of([&] { exchanges[0]->receive(1, {MessageKind::rows, 7, 12}); });
    CHECK(contains(message, "rank 1 is lost: nothing came in 50 ms"));
    CHECK(contains(message, "rows of step 12, layer 7"));

    exchanges = make_exchanges(transport, 2, kTimes);
    exchanges[1]->send(0, {MessageKind::rows, 6, 12}, {});
    CHECK(contains(lost_of([&] { exchanges[0]->receive(1, {MessageKind::rows, 7, 12}); }), "rank 1 is out of step"));

    exchanges = make_exchanges(transport, 2, kTimes);
    CHECK(contains(lost_of([&] {
                     for (;;) exchanges[1]->send(0, {MessageKind::rows, 6, 12}, {}), exchanges[0]->check();
                   }),
                   "rank 1 is out of step: it sends what nobody waits for"));
  }
}

TEST("an arrival rings, and so does the end") {
  for (const Transport transport : kBoth) {
    auto exchanges = make_exchanges(transport, 2, kTimes);
    Bell bell;
    exchanges[0]->on_arrival([&] { bell.ring(); });
    exchanges[1]->send(0, {MessageKind::begin, 0, 1}, {});
    bell.wait();
    CHECK(exchanges[0]->has_message());
    exchanges[0]->receive(1, {MessageKind::begin, 0, 1});
    CHECK(!exchanges[0]->has_message());
    exchanges[1]->leave({"rank 1 is lost: a test"});
    bell.wait();
    CHECK(lost_of([&] { exchanges[0]->check(); }) == "rank 1 is lost: a test");
  }
}

TEST("a group may lack ranks") {
  for (const Transport transport : kBoth) {
    auto exchanges = make_exchanges(transport, 4, kTimes, {true, false, true, true});
    CHECK(exchanges[1] == nullptr && !exchanges[0]->is_member(1) && exchanges[0]->is_member(3));
    exchanges[3]->send(0, {MessageKind::begin, 0, 1}, bytes_of("here"));
    CHECK(text_of(exchanges[0]->receive(3, {MessageKind::begin, 0, 1})) == "here");
  }
}

TEST("tcp: who does not come, knows another secret or is of another group is named, in bounded time") {
  const RankSecret own{1}, other{2};
  RankListener listener("127.0.0.1", 0, own);
  RankListener second("127.0.0.1", 0, other);
  RankTimes times = kTimes;
  times.meet = std::chrono::milliseconds(200);
  const std::vector<RankAddress> ranks{{"127.0.0.1", listener.port(), own}, {"127.0.0.1", second.port(), other}};
  CHECK(contains(lost_of([&] { meet_ranks(listener, {1}, 0, ranks, times); }),
                 "rank 1 does not come: it has not called"));

  std::vector<RankAddress> wrong = ranks;
  wrong[0].secret = other;
  for (const auto& [group, addresses] : {std::pair{GroupId{2}, ranks}, std::pair{GroupId{1}, wrong}}) {
    std::string first, last;
    std::jthread caller([&] { last = lost_of([&] { meet_ranks(second, group, 1, addresses, times); }); });
    first = lost_of([&] { meet_ranks(listener, {1}, 0, ranks, times); });
    caller.join();
    CHECK(contains(first, "rank 1 does not come"));
    CHECK(contains(last, "rank 0 does not come"));
  }
  wrong = ranks;
  wrong[0].host = "localhost";
  CHECK(contains(error_of([&] { meet_ranks(second, {1}, 1, wrong, times); }, ErrorCode::argument), "'localhost'"));
}

TEST("tcp: strangers on the port hold nobody up, and damage is a loss") {
  const RankSecret secrets[] = {{1}, {2}};
  RankListener listeners[] = {{"127.0.0.1", 0, secrets[0]}, {"127.0.0.1", 0, secrets[1]}};
  const std::vector<RankAddress> ranks{{"127.0.0.1", listeners[0].port(), secrets[0]},
                                       {"127.0.0.1", listeners[1].port(), secrets[1]}};
  const Deadline deadline = std::chrono::steady_clock::now() + kTimes.meet;
  std::string reason;
  std::vector<Socket> strangers;
  for (int i = 0; i < 100; ++i) {
    strangers.push_back(connect_to("127.0.0.1", listeners[0].port(), deadline, reason));
    const std::string noise(static_cast<std::size_t>(i), 'x');
    write_all(strangers.back().get(), noise.data(), noise.size(), deadline);
  }
  std::unique_ptr<ExpertExchange> exchanges[2];
  const auto failures =
      on_all_ranks(2, [&](int rank) { exchanges[rank] = meet_ranks(listeners[rank], {1}, rank, ranks, kTimes); });
  CHECK(!failures[0] && !failures[1]);
  exchanges[1]->send(0, {MessageKind::begin, 0, 1}, bytes_of("through"));
  CHECK(text_of(exchanges[0]->receive(1, {MessageKind::begin, 0, 1})) == "through");
}

TEST_MAIN

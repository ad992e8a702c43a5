// One session with the front: the line to the test, and the thread that the vendor's
// library calls back on.
//
// The test listens at the address that the gateway was told. Over that connection it sets
// what the front does and hears what the gateway does, in lines of text:
//
//   to the front:   set NAME VALUE | open | drop REASON | report | freeze
//   from the front: hello KIND PID | EVENT WORDS... | report NAME=NUMBER...
//
// The gateway is connected from "open" on. When the connection ends, so does the session.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "settings.h"

namespace ctp_front {

// Reasons of a disconnection, as the API's header has them.
constexpr int kReadFailed = 0x1001;         // 4097
constexpr int kHeartbeatNotReceived = 0x2001;  // 8193

// What a request returns when it is not sent.
constexpr int kNotConnected = -1;
constexpr int kTooManyUnanswered = -2;
constexpr int kTooManyASecond = -3;

long long wall_ns();

class Front {
 public:
  // `silence` is how long a front that accepts and says nothing is waited for, in seconds.
  Front(std::string kind, double silence);
  virtual ~Front();

  // One of several; the next is tried where one does not answer.
  void add_address(const char *address);
  void start();
  void stop();
  void join();

  // Has the front's thread handle a request; false if there is no session.
  bool post(std::function<void()> request);

  bool is_open() const { return open_; }
  const Settings &settings() const { return settings_; }

 protected:
  virtual void on_open() = 0;
  virtual void on_lost(int reason) = 0;
  // Does what is due; returns the wall time at which it has to be called again.
  virtual long long work(long long now_ns) = 0;
  virtual std::string report() = 0;

  // Tells the test.
  void tell(const std::string &line);
  // Ends the session from the front's side.
  void cut(int reason);

 private:
  void run();
  bool connect_socket();
  void hang_up();
  void wait(long long until_ns);
  bool read_lines();
  void obey(const std::string &line);
  void handle_requests();

  const std::string kind_;
  const double silence_;
  Settings settings_;
  std::vector<std::pair<std::string, int>> addresses_;
  size_t tried_ = 0;
  int socket_ = -1;
  int waker_ = -1;
  long long connected_ns_ = 0;
  std::string unread_;
  std::mutex lock_;  // Of the requests and of what is written.
  std::deque<std::function<void()>> requests_;
  std::atomic<bool> open_{false};
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace ctp_front

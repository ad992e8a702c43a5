#include "front.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>
#include <utility>

namespace ctp_front {

namespace {

constexpr double kRetryRefused = 5.0;  // Seconds, as the vendor's library does.
constexpr double kRetryLost = 1.0;
constexpr long long kSecond = 1'000'000'000;

// Takes the interpreter's lock and keeps it for ever: what a close() of the binding does
// that meets a callback on its way. The symbol is the running interpreter's.
void freeze_interpreter() {
  using Ensure = int (*)();
  if (const auto ensure = reinterpret_cast<Ensure>(dlsym(RTLD_DEFAULT, "PyGILState_Ensure"))) {
    ensure();
    for (;;) pause();
  }
}

}  // namespace

long long wall_ns() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return now.tv_sec * kSecond + now.tv_nsec;
}

Front::Front(std::string kind, double silence) : kind_(std::move(kind)), silence_(silence) {
  waker_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

Front::~Front() {
  stop();
  close(waker_);
}

void Front::add_address(const char *address) {
  std::string text(address);
  if (const auto scheme = text.find("://"); scheme != std::string::npos) text.erase(0, scheme + 3);
  const auto colon = text.rfind(':');
  const int port = colon == std::string::npos ? 0 : std::atoi(text.c_str() + colon + 1);
  addresses_.emplace_back(text.substr(0, colon), port);
}

void Front::start() { thread_ = std::thread(&Front::run, this); }

void Front::stop() {
  stopping_ = true;
  eventfd_write(waker_, 1);
  join();
}

void Front::join() {
  if (thread_.joinable()) thread_.join();
}

bool Front::post(std::function<void()> request) {
  if (!open_) return false;
  {
    std::lock_guard<std::mutex> held(lock_);
    requests_.push_back(std::move(request));
  }
  eventfd_write(waker_, 1);
  return true;
}

void Front::tell(const std::string &line) {
  std::lock_guard<std::mutex> held(lock_);
  const std::string whole = line + "\n";
  // On loopback a line is taken whole; that the test has gone is seen when reading.
  if (socket_ >= 0) (void)!send(socket_, whole.data(), whole.size(), MSG_NOSIGNAL);
}

void Front::cut(int reason) {
  tell("cut " + std::to_string(reason));
  const bool was_open = open_.exchange(false);
  hang_up();
  if (was_open) on_lost(reason);
  wait(wall_ns() + static_cast<long long>(settings_.seconds("retry", kRetryLost) * kSecond));
}

void Front::run() {
  while (!stopping_) {
    if (socket_ < 0 && !connect_socket()) {
      wait(wall_ns() + static_cast<long long>(settings_.seconds("retry", kRetryRefused) * kSecond));
      continue;
    }
    if (!read_lines()) {
      cut(kReadFailed);
      continue;
    }
    if (socket_ < 0) continue;  // A line said to drop it.
    if (!open_) {
      const long long patient = connected_ns_ + static_cast<long long>(silence_ * kSecond);
      if (wall_ns() >= patient) {
        on_lost(kReadFailed);
        cut(kReadFailed);
      } else {
        wait(patient);
      }
      continue;
    }
    handle_requests();
    if (open_) {
      const long long due = work(wall_ns());
      if (open_) wait(due);
    }
  }
  hang_up();
}

bool Front::connect_socket() {
  if (addresses_.empty()) return false;
  const auto &[host, port] = addresses_[tried_++ % addresses_.size()];
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  if (inet_pton(AF_INET, host.c_str(), &address.sin_addr) != 1) return false;
  const int made = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(made, reinterpret_cast<sockaddr *>(&address), sizeof address) != 0) {
    close(made);
    return false;
  }
  {
    std::lock_guard<std::mutex> held(lock_);
    socket_ = made;
    requests_.clear();
  }
  unread_.clear();
  connected_ns_ = wall_ns();
  tell("hello " + kind_ + " " + std::to_string(getpid()));
  return true;
}

void Front::hang_up() {
  std::lock_guard<std::mutex> held(lock_);
  if (socket_ >= 0) close(socket_);
  socket_ = -1;
  requests_.clear();
}

// Until a time, a request, or something to read.
void Front::wait(long long until_ns) {
  const long long left = until_ns - wall_ns();
  if (left <= 0) return;
  pollfd watched[2] = {{waker_, POLLIN, 0}, {socket_, POLLIN, 0}};
  const timespec limit{left / kSecond, left % kSecond};
  if (ppoll(watched, socket_ >= 0 ? 2 : 1, &limit, nullptr) > 0 && watched[0].revents) {
    eventfd_t count;
    eventfd_read(waker_, &count);
  }
}

// Obeys all lines that have come; false if the connection has ended.
bool Front::read_lines() {
  char buffer[4096];
  for (;;) {
    const ssize_t count = recv(socket_, buffer, sizeof buffer, MSG_DONTWAIT);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) break;
    if (count <= 0) return false;
    unread_.append(buffer, static_cast<size_t>(count));
  }
  for (size_t end; (end = unread_.find('\n')) != std::string::npos && socket_ >= 0;) {
    const std::string line = unread_.substr(0, end);
    unread_.erase(0, end + 1);
    obey(line);
  }
  return true;
}

void Front::obey(const std::string &line) {
  const auto space = line.find(' ');
  const std::string word = line.substr(0, space);
  const std::string rest = space == std::string::npos ? "" : line.substr(space + 1);
  if (word == "set") {
    const auto second = rest.find(' ');
    settings_.set(rest.substr(0, second), second == std::string::npos ? "" : rest.substr(second + 1));
  } else if (word == "open") {
    open_ = true;
    on_open();
  } else if (word == "drop") {
    cut(std::atoi(rest.c_str()));
  } else if (word == "report") {
    tell("report " + report());
  } else if (word == "freeze") {
    freeze_interpreter();
  }
}

void Front::handle_requests() {
  std::deque<std::function<void()>> requests;
  {
    std::lock_guard<std::mutex> held(lock_);
    requests.swap(requests_);
  }
  for (const auto &request : requests) {
    if (!open_) return;
    request();
  }
}

}  // namespace ctp_front

// The market-data library: CThostFtdcMdApi in front of the made-up market.
//
// Settings: rate, phases, md_login_error, subscribe_limit, subscribe_excess, unanswered,
// silent, night, snapshot_time, link, backlog, retry. See README.md.

#include <algorithm>
#include <deque>
#include <memory>
#include <vector>

#include "front.h"
#include "market.h"
#include "noop_CThostFtdcMdApi.h"

namespace ctp_front {

namespace {

constexpr double kSilence = 8.0;  // Seconds, as measured at the vendor's library.
constexpr long long kSecond = 1'000'000'000;
constexpr long long kIdle = kSecond / 10;
constexpr long long kCatchUp = 5 * kSecond;  // After a pause of the process, no more is made up.

// How many requests came within the last second.
class RequestRate {
 public:
  size_t add(long long now_ns) {
    while (!times_.empty() && times_.front() <= now_ns - kSecond) times_.pop_front();
    times_.push_back(now_ns);
    return times_.size();
  }
  void take_back() { times_.pop_back(); }

 private:
  std::deque<long long> times_;
};

// What waits to be sent to the gateway: an answer to a subscription, or a tick.
struct Packet {
  enum Kind { kSubscribed, kUnsubscribed, kTick, kSnapshot } kind;
  long long number;  // Of the contract, or of the tick.
  int error;
  std::string symbol;  // Of an answer.
};

class MarketData final : public MdApiNoops, public Front {
 public:
  MarketData() : Front("md", kSilence) {}

  // -- called by the gateway, on any thread --------------------------------------------

  void Release() override { delete this; }
  void Init() override { start(); }
  int Join() override {
    join();
    return 0;
  }
  const char *GetTradingDay() override { return trading_day_.c_str(); }
  void RegisterFront(char *address) override { add_address(address); }
  void RegisterSpi(CThostFtdcMdSpi *spi) override { spi_ = spi; }

  int ReqUserLogin(CThostFtdcReqUserLoginField *request, int id) override {
    const std::string user = request->UserID;
    return post([this, user, id] { log_in(user, id); }) ? 0 : kNotConnected;
  }

  int SubscribeMarketData(char *symbols[], int count) override {
    return ask(symbols, count, &MarketData::subscribe);
  }

  int UnSubscribeMarketData(char *symbols[], int count) override {
    return ask(symbols, count, &MarketData::unsubscribe);
  }

 private:
  using Handler = void (MarketData::*)(const std::string &);

  // Counts the request where it is made: its answer is what the call returns.
  int ask(char *symbols[], int count, Handler handler) {
    if (!is_open()) return kNotConnected;
    const auto limit = static_cast<size_t>(settings().number("subscribe_limit"));
    {
      std::lock_guard<std::mutex> held(rate_lock_);
      const size_t made = request_rate_.add(wall_ns());
      if (limit != 0 && made > limit) {
        request_rate_.take_back();
        ++refused_;
        if (settings().text("subscribe_excess") == "cut") {
          post([this] {
            tell("excess");
            cut(kReadFailed);
          });
          return 0;
        }
        return kTooManyASecond;
      }
      peak_ = std::max(peak_, made);
      ++requests_;
    }
    std::vector<std::string> wanted(symbols, symbols + count);
    const bool sent = post([this, wanted, handler] {
      for (const auto &symbol : wanted) (this->*handler)(symbol);
    });
    return sent ? 0 : kNotConnected;
  }

  // -- on the front's thread -----------------------------------------------------------

  void on_open() override {
    if (!market_) market_ = std::make_unique<Market>(settings());
    subscribed_.assign(static_cast<size_t>(market_->size()), false);
    outgoing_.clear();
    logged_in_ = false;
    if (auto *spi = spi_.load()) spi->OnFrontConnected();
  }

  void on_lost(int reason) override {
    ++lost_;
    if (auto *spi = spi_.load()) spi->OnFrontDisconnected(reason);
  }

  void log_in(const std::string &user, int id) {
    const int code = static_cast<int>(settings().number("md_login_error"));
    tell((code ? "refused " + std::to_string(code) + " login " : "login ") + user);
    const LocalTime now(wall_ns());
    trading_day_ = settings().number("night") ? now.next_date : now.date;
    CThostFtdcRspUserLoginField answer{};
    put(answer.TradingDay, trading_day_);
    put(answer.LoginTime, now.time);
    put(answer.UserID, user);
    put(answer.SystemName, "行情");
    CThostFtdcRspInfoField error = make_error(code);
    logged_in_ = code == 0;
    next_ = market_->ticks_until(wall_ns());
    if (auto *spi = spi_.load()) spi->OnRspUserLogin(&answer, &error, id, true);
  }

  void subscribe(const std::string &symbol) {
    const int number = market_->find(symbol);
    if (settings().lists("unanswered", symbol)) return;
    if (number < 0) {
      send({Packet::kSubscribed, -1, 16, symbol});
      return;
    }
    send({Packet::kSubscribed, number, 0, symbol});
    subscribed_[static_cast<size_t>(number)] = true;
    const long long last = market_->last_of(number, next_);
    if (last >= 0) send({Packet::kSnapshot, last, 0, {}});
  }

  void unsubscribe(const std::string &symbol) {
    const int number = market_->find(symbol);
    if (number >= 0) subscribed_[static_cast<size_t>(number)] = false;
    send({Packet::kUnsubscribed, number, 0, symbol});
  }

  long long work(long long now_ns) override {
    if (!logged_in_) {
      sent_until_ns_ = now_ns;
      return now_ns + kIdle;
    }
    const long long end = market_->ticks_until(now_ns);
    next_ = std::max(next_, market_->ticks_until(now_ns - kCatchUp));
    const std::string silent = settings().text("silent");
    for (; next_ < end; ++next_) {
      const int number = market_->contract_of(next_);
      if (!subscribed_[static_cast<size_t>(number)]) continue;
      if (!silent.empty() &&
          settings().lists("silent", market_->contracts()[static_cast<size_t>(number)].exchange)) {
        continue;
      }
      send({Packet::kTick, next_, 0, {}});
    }
    const long long backlog = settings().number("backlog");
    if (backlog > 0 && static_cast<long long>(outgoing_.size()) > backlog) {
      tell("overrun " + std::to_string(outgoing_.size()));
      cut(kHeartbeatNotReceived);
      return now_ns;
    }
    return deliver(now_ns);
  }

  void send(Packet packet) { outgoing_.push_back(std::move(packet)); }

  // Hands the gateway what its line has room for; `link` is packets a second, 0 any.
  long long deliver(long long now_ns) {
    const long long link = settings().number("link");
    longest_ = std::max(longest_, outgoing_.size());
    size_t room = outgoing_.size();
    if (link > 0) {
      const long long since = std::min(now_ns - sent_until_ns_, kSecond / 10);
      room = std::min(room, static_cast<size_t>(since * link / kSecond));
    }
    if (room > 0 || link == 0) sent_until_ns_ = now_ns;
    const bool night = settings().number("night") != 0;
    const std::string snapshot_time = settings().text("snapshot_time");
    for (; room > 0 && !outgoing_.empty(); --room) {
      const Packet packet = std::move(outgoing_.front());
      outgoing_.pop_front();
      hand_over(packet, night, snapshot_time);
    }
    return outgoing_.empty() ? market_->next_phase(now_ns)
                             : std::min(market_->next_phase(now_ns), now_ns + kSecond / 200);
  }

  void hand_over(const Packet &packet, bool night, const std::string &snapshot_time) {
    CThostFtdcMdSpi *spi = spi_;
    if (!spi) return;
    if (packet.kind == Packet::kTick || packet.kind == Packet::kSnapshot) {
      CThostFtdcDepthMarketDataField tick;
      market_->fill(tick, packet.number, night,
                    packet.kind == Packet::kSnapshot ? snapshot_time : "");
      ++(packet.kind == Packet::kTick ? ticks_ : snapshots_);
      spi->OnRtnDepthMarketData(&tick);
      return;
    }
    CThostFtdcSpecificInstrumentField instrument{};
    put(instrument.InstrumentID, packet.symbol);
    CThostFtdcRspInfoField error = make_error(packet.error);
    if (packet.kind == Packet::kSubscribed) {
      spi->OnRspSubMarketData(&instrument, &error, 0, true);
    } else {
      spi->OnRspUnSubMarketData(&instrument, &error, 0, true);
    }
  }

  std::string report() override {
    std::lock_guard<std::mutex> held(rate_lock_);
    const auto wanted = std::count(subscribed_.begin(), subscribed_.end(), true);
    return "subscribed=" + std::to_string(wanted) + " requests=" + std::to_string(requests_) +
           " refused=" + std::to_string(refused_) + " peak=" + std::to_string(peak_) +
           " ticks=" + std::to_string(ticks_) + " snapshots=" + std::to_string(snapshots_) +
           " backlog=" + std::to_string(longest_) + " lost=" + std::to_string(lost_);
  }

  ~MarketData() { stop(); }

  std::atomic<CThostFtdcMdSpi *> spi_{nullptr};
  std::string trading_day_;
  std::unique_ptr<Market> market_;
  std::vector<bool> subscribed_;
  std::deque<Packet> outgoing_;
  bool logged_in_ = false;
  long long next_ = 0;  // The first tick that has not been sent.
  long long sent_until_ns_ = 0;

  std::mutex rate_lock_;
  RequestRate request_rate_;
  size_t peak_ = 0;
  long long requests_ = 0, refused_ = 0;
  long long ticks_ = 0, snapshots_ = 0, lost_ = 0;
  size_t longest_ = 0;
};

}  // namespace

}  // namespace ctp_front

CThostFtdcMdApi *CThostFtdcMdApi::CreateFtdcMdApi(const char *, const bool, const bool, bool) {
  return new ctp_front::MarketData();
}

const char *CThostFtdcMdApi::GetApiVersion() { return "fake front"; }

// The trading library: CThostFtdcTraderApi, as far as a gateway needs it to load contracts.
//
// Settings: auth_error, login_error, refuse_queries, refuse_code, query_limit, hold,
// subscribe_limit, retry. See README.md.

#include <memory>

#include "front.h"
#include "market.h"
#include "noop_CThostFtdcTraderApi.h"

namespace ctp_front {

namespace {

constexpr double kSilence = 10.0;  // Seconds, as measured at the vendor's library.
constexpr long long kSecond = 1'000'000'000;

class Trading final : public TraderApiNoops, public Front {
 public:
  Trading() : Front("td", kSilence) {}

  // -- called by the gateway, on any thread --------------------------------------------

  void Release() override { delete this; }
  void Init() override { start(); }
  int Join() override {
    join();
    return 0;
  }
  const char *GetTradingDay() override { return trading_day_.c_str(); }
  void RegisterFront(char *address) override {
    add_address(address);
    address_ = address;
  }
  void RegisterSpi(CThostFtdcTraderSpi *spi) override { spi_ = spi; }

  void GetFrontInfo(CThostFtdcFrontInfoField *info) override {
    *info = {};
    put(info->FrontAddr, address_);
    info->QryFreq = static_cast<int>(settings().number("query_limit"));
    info->FTDPkgFreq = static_cast<int>(settings().number("subscribe_limit"));
  }

  int ReqAuthenticate(CThostFtdcReqAuthenticateField *request, int id) override {
    const CThostFtdcReqAuthenticateField copy = *request;
    return sent([this, copy, id] { authenticate(copy, id); });
  }

  int ReqUserLogin(CThostFtdcReqUserLoginField *request, int id) override {
    const std::string user = request->UserID;
    return sent([this, user, id] { log_in(user, id); });
  }

  int ReqSettlementInfoConfirm(CThostFtdcSettlementInfoConfirmField *request, int id) override {
    const CThostFtdcSettlementInfoConfirmField copy = *request;
    return sent([this, copy, id] { confirm(copy, id); });
  }

  int ReqQryInstrument(CThostFtdcQryInstrumentField *, int id) override {
    return query("instrument", [this, id] { answer_instruments(id); });
  }

  int ReqQryTradingAccount(CThostFtdcQryTradingAccountField *, int id) override {
    return query("account", [this, id] { answer_account(id); });
  }

  int ReqQryInvestorPosition(CThostFtdcQryInvestorPositionField *, int id) override {
    return query("position", [this, id] {
      if (auto *spi = spi_.load()) spi->OnRspQryInvestorPosition(nullptr, nullptr, id, true);
    });
  }

 private:
  int sent(std::function<void()> request) { return post(std::move(request)) ? 0 : kNotConnected; }

  // One query at a time, `query_limit` a second, and `refuse_queries` of those for
  // contracts are refused whatever the limits say.
  int query(const std::string &what, std::function<void()> answer) {
    if (!is_open()) return kNotConnected;
    std::lock_guard<std::mutex> held(query_lock_);
    int code = 0;
    const long long limit = settings().number("query_limit"), now = wall_ns();
    if (what == "instrument" && refusals_ < settings().number("refuse_queries")) {
      ++refusals_;
      code = static_cast<int>(settings().number("refuse_code", kTooManyASecond));
    } else if (under_way_) {
      code = kTooManyUnanswered;
    } else if (limit > 0 && now < last_query_ns_ + kSecond / limit) {
      code = kTooManyASecond;
    }
    if (code != 0) {
      tell("refused " + std::to_string(code) + " query " + what);
      return code;
    }
    tell("query " + what);
    under_way_ = true;
    last_query_ns_ = now;
    return sent([this, answer = std::move(answer)] {
      answer();
      std::lock_guard<std::mutex> done(query_lock_);
      under_way_ = false;
    });
  }

  // -- on the front's thread -----------------------------------------------------------

  void on_open() override {
    {
      std::lock_guard<std::mutex> held(query_lock_);
      under_way_ = false;
    }
    if (auto *spi = spi_.load()) spi->OnFrontConnected();
  }

  void on_lost(int reason) override {
    if (auto *spi = spi_.load()) spi->OnFrontDisconnected(reason);
  }

  void authenticate(const CThostFtdcReqAuthenticateField &request, int id) {
    const int code = static_cast<int>(settings().number("auth_error"));
    tell((code ? "refused " + std::to_string(code) + " authenticate " : "authenticate ") +
         request.AppID);
    CThostFtdcRspAuthenticateField answer{};
    put(answer.UserID, request.UserID);
    put(answer.AppID, request.AppID);
    CThostFtdcRspInfoField error = make_error(code);
    if (auto *spi = spi_.load()) spi->OnRspAuthenticate(&answer, &error, id, true);
  }

  void log_in(const std::string &user, int id) {
    const int code = static_cast<int>(settings().number("login_error"));
    tell((code ? "refused " + std::to_string(code) + " login " : "login ") + user);
    const LocalTime now(wall_ns());
    trading_day_ = settings().number("night") ? now.next_date : now.date;
    CThostFtdcRspUserLoginField answer{};
    put(answer.TradingDay, trading_day_);
    put(answer.LoginTime, now.time);
    put(answer.UserID, user);
    put(answer.SystemName, "交易");
    answer.FrontID = 1;
    answer.SessionID = ++sessions_;
    CThostFtdcRspInfoField error = make_error(code);
    if (auto *spi = spi_.load()) spi->OnRspUserLogin(&answer, &error, id, true);
  }

  void confirm(const CThostFtdcSettlementInfoConfirmField &request, int id) {
    tell(std::string("confirm ") + request.InvestorID);
    CThostFtdcSettlementInfoConfirmField answer = request;
    CThostFtdcRspInfoField error = make_error(0);
    if (auto *spi = spi_.load()) spi->OnRspSettlementInfoConfirm(&answer, &error, id, true);
  }

  void answer_instruments(int id) {
    if (settings().number("hold")) return;  // A front that never finishes its answer.
    const Market market(settings());
    const int count = static_cast<int>(market.size());
    for (int number = 0; number < count; ++number) {
      CThostFtdcInstrumentField instrument;
      market.fill(instrument, number);
      CThostFtdcTraderSpi *spi = spi_;
      if (!spi) return;
      spi->OnRspQryInstrument(&instrument, nullptr, id, number == count - 1);
    }
    tell("contracts " + std::to_string(count));
  }

  void answer_account(int id) {
    CThostFtdcTradingAccountField account{};
    put(account.AccountID, "1");
    if (auto *spi = spi_.load()) spi->OnRspQryTradingAccount(&account, nullptr, id, true);
  }

  long long work(long long now_ns) override { return now_ns + kSecond; }
  std::string report() override { return "sessions=" + std::to_string(sessions_); }

  ~Trading() { stop(); }

  std::atomic<CThostFtdcTraderSpi *> spi_{nullptr};
  std::string address_;
  std::string trading_day_;
  std::mutex query_lock_;
  bool under_way_ = false;
  long long refusals_ = 0;
  long long last_query_ns_ = 0;
  int sessions_ = 0;
};

}  // namespace

}  // namespace ctp_front

CThostFtdcTraderApi *CThostFtdcTraderApi::CreateFtdcTraderApi(const char *, bool) {
  return new ctp_front::Trading();
}

const char *CThostFtdcTraderApi::GetApiVersion() { return "fake front"; }

#include "market.h"

#include <algorithm>
#include <cfloat>
#include <cstdarg>
#include <ctime>

#include "front.h"

namespace ctp_front {

namespace {

constexpr long long kSecond = 1'000'000'000;
constexpr long long kZone = 8 * 3600;
constexpr long long kDay = 86'400;
constexpr long long kWeek = 7 * kDay;
constexpr long long kFirstSunday = 3 * kDay;  // 1970-01-04
constexpr double kNoPrice = DBL_MAX;

struct Product {
  const char *exchange;
  const char *id;
  const char *name;
  int multiplier;
  double price_tick;
  double price;
  const char *options;  // The product of its options; empty if it has none.
};

const Product kProducts[] = {
    {"SHFE", "rb", "螺纹钢", 10, 1, 3500, "rb_o"},
    {"DCE", "m", "豆粕", 10, 1, 3000, "m_o"},
    {"CZCE", "SR", "白糖", 10, 1, 5600, "SR"},
    {"INE", "sc", "原油", 1000, 0.1, 550, "sc_o"},
    {"CFFEX", "IF", "沪深", 300, 0.2, 3800, "IO"},
    {"GFEX", "si", "工业硅", 5, 5, 12000, "si_o"},
    {"SHFE", "cu", "铜", 5, 10, 70000, "cu_o"},
    {"SHFE", "au", "黄金", 1000, 0.02, 560, "au_o"},
    {"SHFE", "al", "铝", 5, 5, 19000, "al_o"},
    {"DCE", "i", "铁矿石", 100, 0.5, 800, "i_o"},
    {"DCE", "p", "棕榈油", 10, 2, 8000, "p_o"},
    {"DCE", "c", "玉米", 10, 1, 2300, "c_o"},
    {"CZCE", "TA", "PTA", 5, 2, 5800, "TA"},
    {"CZCE", "MA", "甲醇", 10, 1, 2500, "MA"},
    {"CZCE", "CF", "棉花", 5, 5, 15000, "CF"},
    {"INE", "bc", "国际铜", 5, 10, 62000, ""},
    {"CFFEX", "IM", "中证", 200, 0.2, 6000, "MO"},
    {"CFFEX", "T", "十债", 10000, 0.005, 105, ""},
    {"GFEX", "lc", "碳酸锂", 1, 50, 80000, "lc_o"},
};
constexpr int kProductCount = sizeof kProducts / sizeof *kProducts;

std::string format(const char *pattern, ...) __attribute__((format(printf, 1, 2)));
std::string format(const char *pattern, ...) {
  char text[128];
  va_list arguments;
  va_start(arguments, pattern);
  std::vsnprintf(text, sizeof text, pattern, arguments);
  va_end(arguments);
  return text;
}

// CZCE writes the last digit of the year alone.
std::string month_code(const std::string &exchange, int year, int month) {
  return exchange == "CZCE" ? format("%d%02d", year % 10, month)
                            : format("%02d%02d", year % 100, month);
}

Contract make_future(const Product &product, int months_on) {
  const LocalTime now(wall_ns());
  const int month = std::atoi(std::string(now.date + 4, 2).c_str()) + months_on;
  Contract contract;
  contract.exchange = product.exchange;
  contract.product = product.id;
  contract.year = std::atoi(std::string(now.date, 4).c_str()) + month / 12;
  contract.month = month % 12 + 1;
  const std::string code = month_code(contract.exchange, contract.year, contract.month);
  contract.symbol = product.id + code;
  contract.name = product.name + code;
  contract.multiplier = product.multiplier;
  contract.price_tick = product.price_tick;
  contract.price = product.price;
  return contract;
}

// Strikes alternate around the underlying's price, and calls with puts.
Contract make_option(const Product &product, const Contract &underlying, int number) {
  Contract option = underlying;
  const bool call = number % 2 == 0;
  const int step = number / 4 + 1;
  const double distance = (number / 2 % 2 == 0 ? step : -step) * 10 * product.price_tick;
  option.underlying = underlying.symbol;
  option.product_class = THOST_FTDC_PC_Options;
  option.option_type = call ? THOST_FTDC_CP_CallOptions : THOST_FTDC_CP_PutOptions;
  option.strike = underlying.price + distance;
  option.price = std::max(product.price_tick, underlying.price / 20);
  const char letter = call ? 'C' : 'P';
  const std::string code = month_code(option.exchange, option.year, option.month);
  option.product = product.options;
  std::string head = underlying.symbol;
  if (option.exchange == "CZCE") option.product += letter;
  if (option.exchange == "CFFEX") head = product.options + code;
  const bool dashes =
      option.exchange == "DCE" || option.exchange == "GFEX" || option.exchange == "CFFEX";
  option.symbol = head + format(dashes ? "-%c-%g" : "%c%g", letter, option.strike);
  option.name = product.name + code + (call ? "购" : "沽") + format("%g", option.strike);
  return option;
}

}  // namespace

std::vector<Contract> make_universe(const Settings &settings) {
  const long long futures = settings.number("futures", 60);
  const long long options = settings.number("options", 40);
  std::vector<Contract> all;
  std::vector<std::pair<const Product *, int>> underlyings;
  for (int i = 0; i < futures; ++i) {
    const Product &product = kProducts[i % kProductCount];
    if (*product.options) underlyings.emplace_back(&product, i);
    all.push_back(make_future(product, i / kProductCount));
  }
  for (int i = 0; i < options && !underlyings.empty(); ++i) {
    const auto &[product, future] = underlyings[i % underlyings.size()];
    all.push_back(make_option(*product, all[future], i / static_cast<int>(underlyings.size())));
    all.back().traded = i % 5 != 4;
    all.back().one_sided = i % 3 == 2;
  }
  for (int i = 0; i < settings.number("combinations"); ++i) {
    Contract legs = make_future(kProducts[1], i);
    const std::string other = make_future(kProducts[1], i + 1).symbol;
    legs.product_class = THOST_FTDC_PC_Combination;
    legs.symbol = "SP " + legs.symbol + "&" + other;
    all.push_back(legs);
  }
  for (int i = 0; i < settings.number("strange"); ++i) {
    Contract strange = make_future(kProducts[0], i);
    strange.exchange = "XXEX";
    strange.symbol = "xx" + strange.symbol;
    all.push_back(strange);
  }
  return all;
}

LocalTime::LocalTime(long long at_ns) {
  const auto write = [](char (&into)[9], const char *pattern, long long seconds) {
    const time_t local = seconds + kZone;
    tm parts{};
    gmtime_r(&local, &parts);
    std::strftime(into, sizeof into, pattern, &parts);
  };
  const long long seconds = at_ns / kSecond;
  write(date, "%Y%m%d", seconds);
  write(next_date, "%Y%m%d", seconds + kDay);
  write(time, "%H:%M:%S", seconds);
  millisecond = static_cast<int>(at_ns / 1'000'000 % 1000);
}

Market::Market(const Settings &settings)
    : contracts_(make_universe(settings)),
      rate_(settings.number("rate")),
      phases_(std::max(1LL, settings.number("phases", 2))) {
  for (size_t i = 0; i < contracts_.size(); ++i) by_symbol_[contracts_[i].symbol] = int(i);
}

int Market::find(const std::string &symbol) const {
  const auto found = by_symbol_.find(symbol);
  return found == by_symbol_.end() ? -1 : found->second;
}

namespace {

// The week that a time is in began so many nanoseconds after 1970.
long long week_of(long long at_ns) {
  const long long seconds = at_ns / kSecond + kZone - kFirstSunday;
  return (seconds / kWeek * kWeek + kFirstSunday - kZone) * kSecond;
}

long long phases_since(long long begin_ns, long long at_ns, long long phases) {
  const long long past = at_ns - begin_ns;
  return past / kSecond * phases + past % kSecond * phases / kSecond;
}

}  // namespace

// Phase number `n` of the week makes the ticks from n * rate / phases on.
long long Market::ticks_until(long long at_ns) const {
  return (phases_since(week_of(at_ns), at_ns, phases_) + 1) * rate_ / phases_;
}

long long Market::last_of(int contract, long long end) const {
  const long long before = end - 1 - contract;
  return before < 0 ? -1 : before / size() * size() + contract;
}

long long Market::time_of(long long tick) const {
  const long long begin = week_of(wall_ns());
  if (rate_ == 0) return wall_ns();
  const long long phase = ((tick + 1) * phases_ + rate_ - 1) / rate_ - 1;
  return begin + phase / phases_ * kSecond + phase % phases_ * kSecond / phases_;
}

long long Market::next_phase(long long at_ns) const {
  const long long begin = week_of(at_ns);
  const long long phase = phases_since(begin, at_ns, phases_) + 1;
  // One nanosecond later, so that rounding does not put it into the phase before.
  return begin + phase / phases_ * kSecond + phase % phases_ * kSecond / phases_ + 1;
}

void Market::fill(CThostFtdcDepthMarketDataField &field, long long tick, bool night,
                  const std::string &at_time) const {
  const Contract &contract = contracts_[contract_of(tick)];
  const long long round = tick / size();
  const LocalTime local(time_of(tick));
  const bool czce = contract.exchange == "CZCE", dce = contract.exchange == "DCE";
  field = {};
  put(field.InstrumentID, contract.symbol);
  put(field.ExchangeInstID, contract.symbol);
  put(field.ExchangeID, contract.exchange);
  // At night CZCE goes on with the calendar's day, and DCE dates the tick itself ahead.
  put(field.TradingDay, night && !czce ? local.next_date : local.date);
  put(field.ActionDay, night && dce ? local.next_date : local.date);
  put(field.UpdateTime, at_time.empty() ? local.time : at_time);
  // CZCE has whole seconds, DCE any millisecond, the others halves of a second.
  field.UpdateMillisec = czce ? 0 : dce ? local.millisecond : local.millisecond / 500 * 500;

  const double tick_size = contract.price_tick;
  const double last = contract.price + static_cast<double>(round * 7 % 21 - 10) * tick_size;
  field.PreSettlementPrice = contract.price;
  field.PreClosePrice = contract.price;
  field.PreOpenInterest = 1000;
  field.OpenInterest = 1000;
  field.UpperLimitPrice = contract.price + 200 * tick_size;
  field.LowerLimitPrice = std::max(tick_size, contract.price - 200 * tick_size);
  // No price of these exists before the close.
  field.ClosePrice = field.SettlementPrice = kNoPrice;
  field.PreDelta = field.CurrDelta = kNoPrice;
  field.BandingUpperPrice = field.BandingLowerPrice = kNoPrice;
  field.LastPrice = field.OpenPrice = field.HighestPrice = field.LowestPrice = kNoPrice;
  if (contract.traded) {
    field.LastPrice = last;
    field.OpenPrice = contract.price;
    field.HighestPrice = contract.price + 10 * tick_size;
    field.LowestPrice = contract.price - 10 * tick_size;
    field.Volume = static_cast<int>(round);
    // CZCE gives no multiple of the contract's size, others do.
    field.AveragePrice = contract.price * (czce ? 1 : contract.multiplier);
    field.Turnover = static_cast<double>(round) * contract.price * contract.multiplier;
  }
  field.BidPrice1 = contract.one_sided ? kNoPrice : last - tick_size;
  field.BidVolume1 = contract.one_sided ? 0 : static_cast<int>(round % 997 + 1);
  field.AskPrice1 = last + tick_size;
  field.AskVolume1 = static_cast<int>(round % 991 + 1);
  // Futures have one level; the rest is what the vendor sends for none.
  field.BidPrice2 = field.BidPrice3 = field.BidPrice4 = field.BidPrice5 = kNoPrice;
  field.AskPrice2 = field.AskPrice3 = field.AskPrice4 = field.AskPrice5 = kNoPrice;
}

void Market::fill(CThostFtdcInstrumentField &field, int number) const {
  const Contract &contract = contracts_[number];
  field = {};
  put(field.InstrumentID, contract.symbol);
  put(field.ExchangeInstID, contract.symbol);
  put(field.ExchangeID, contract.exchange);
  put(field.InstrumentName, contract.name);
  put(field.ProductID, contract.product);
  put(field.UnderlyingInstrID, contract.underlying);
  field.ProductClass = contract.product_class;
  field.OptionsType = contract.option_type;
  field.StrikePrice = contract.option_type ? contract.strike : kNoPrice;
  field.DeliveryYear = contract.year;
  field.DeliveryMonth = contract.month;
  field.VolumeMultiple = contract.multiplier;
  field.PriceTick = contract.price_tick;
  field.MinLimitOrderVolume = field.MinMarketOrderVolume = 1;
  field.MaxLimitOrderVolume = field.MaxMarketOrderVolume = 500;
  put(field.OpenDate, "20260105");
  put(field.CreateDate, "20260105");
  put(field.ExpireDate, format("%04d%02d15", contract.year, contract.month));
  field.InstLifePhase = THOST_FTDC_IP_Started;
  field.IsTrading = 1;
  field.LongMarginRatio = field.ShortMarginRatio = 0.1;
}

}  // namespace ctp_front

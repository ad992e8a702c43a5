// The market behind the fronts: the same contracts and ticks at each of them.
//
// Nothing is random and nothing is kept: which contract ticks when, and what it says then,
// follows from the time of day alone. So two fronts in two processes tell the same story,
// and a consumer can tell from a tick's volume, which counts the ticks of its contract,
// whether one is missing or came twice.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "settings.h"
#include "vendor.h"

namespace ctp_front {

struct Contract {
  std::string exchange;
  std::string symbol;
  std::string name;  // In GBK, as all text of the vendor.
  std::string product;
  std::string underlying;
  char product_class = THOST_FTDC_PC_Futures;
  char option_type = 0;
  int year = 0;
  int month = 0;
  int multiplier = 1;
  double price_tick = 1;
  double price = 0;
  double strike = 0;
  bool traded = true;  // Some options never are: they have quotes alone.
  bool one_sided = false;
};

// All contracts, by the settings `futures`, `options`, `combinations` and `strange`.
std::vector<Contract> make_universe(const Settings &settings);

// Local time in the exchanges' zone, which has no summer time.
struct LocalTime {
  explicit LocalTime(long long at_ns);
  char date[9];
  char next_date[9];
  char time[9];
  int millisecond;
};

class Market {
 public:
  explicit Market(const Settings &settings);

  const std::vector<Contract> &contracts() const { return contracts_; }
  int find(const std::string &symbol) const;

  // Ticks are numbered through. All below this number have been made at a time.
  long long ticks_until(long long at_ns) const;
  int contract_of(long long tick) const { return static_cast<int>(tick % size()); }
  // The newest tick of a contract among the first `end`; -1 if it has none.
  long long last_of(int contract, long long end) const;
  long long time_of(long long tick) const;
  long long next_phase(long long at_ns) const;
  long long size() const { return static_cast<long long>(contracts_.size()); }

  // What the front sends as tick number `tick`. `night` writes the dates as the exchanges
  // do in a night session, `at_time` another time of day.
  void fill(CThostFtdcDepthMarketDataField &field, long long tick, bool night,
            const std::string &at_time) const;
  void fill(CThostFtdcInstrumentField &field, int contract) const;

 private:
  std::vector<Contract> contracts_;
  std::unordered_map<std::string, int> by_symbol_;
  long long rate_;
  long long phases_;
};

}  // namespace ctp_front

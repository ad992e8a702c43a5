// What a test has asked of the front, as text by name.
#pragma once

#include <cstdlib>
#include <map>
#include <mutex>
#include <string>

namespace ctp_front {

// Set from the front's thread, read from any: the vendor's methods are called by Python's.
class Settings {
 public:
  void set(const std::string &name, const std::string &value) {
    std::lock_guard<std::mutex> held(lock_);
    values_[name] = value;
  }

  std::string text(const std::string &name) const {
    std::lock_guard<std::mutex> held(lock_);
    const auto found = values_.find(name);
    return found == values_.end() ? std::string() : found->second;
  }

  long long number(const std::string &name, long long otherwise = 0) const {
    const std::string value = text(name);
    return value.empty() ? otherwise : std::atoll(value.c_str());
  }

  double seconds(const std::string &name, double otherwise) const {
    const std::string value = text(name);
    return value.empty() ? otherwise : std::atof(value.c_str());
  }

  // Whether a list with commas has an item; "*" has them all.
  bool lists(const std::string &name, const std::string &item) const {
    const std::string value = text(name);
    return value == "*" || ("," + value + ",").find("," + item + ",") != std::string::npos;
  }

 private:
  mutable std::mutex lock_;
  std::map<std::string, std::string> values_;
};

}  // namespace ctp_front

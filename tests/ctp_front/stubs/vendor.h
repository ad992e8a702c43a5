// The vendor's headers, with their classes exported though all else here is hidden.
#pragma once

#pragma GCC visibility push(default)
#include "ctp/ThostFtdcMdApi.h"
#include "ctp/ThostFtdcTraderApi.h"
#pragma GCC visibility pop

#include <cstdio>
#include <string>

namespace ctp_front {

// Copies text into a field of the vendor's; what is too long is cut.
template <size_t size>
void put(char (&field)[size], const std::string &text) {
  std::snprintf(field, size, "%s", text.c_str());
}

// The vendor's words for an error, in GBK.
inline CThostFtdcRspInfoField make_error(int code) {
  CThostFtdcRspInfoField error{};
  error.ErrorID = code;
  switch (code) {
    case 0: put(error.ErrorMsg, "正确"); break;
    case 3: put(error.ErrorMsg, "CTP:不合法的登录"); break;
    case 7: put(error.ErrorMsg, "CTP:还没有初始化"); break;
    case 8: put(error.ErrorMsg, "CTP:前置不活跃"); break;
    case 16: put(error.ErrorMsg, "CTP:找不到合约"); break;
    case 63: put(error.ErrorMsg, "CTP:客户端认证失败"); break;
    case 75: put(error.ErrorMsg, "CTP:连续登录失败次数超限，登录被禁止"); break;
    default: put(error.ErrorMsg, "CTP:错误" + std::to_string(code));
  }
  return error;
}

}  // namespace ctp_front

"""vnpy's own CTP gateway in a process of its own: ``python stock_gateway.py ADDRESS``.

It prints what the gateway tells as lines of JSON, and does what it reads on its input:

    subscribe COUNT    subscribe to the first contracts, or to all of them with 0
    report             print how many contracts and ticks have come
    tick SYMBOL        print the last tick of a contract, as the binding made it
    front              print what the front says of its limits
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections import Counter
from threading import Lock
from typing import Any

printing = Lock()


def say(**facts: object) -> None:
    """Print one line; vnpy logs from threads of its own, and lines must not mix."""
    with printing:
        print(json.dumps(facts), flush=True)


def main(address: str) -> None:
    events: Any = importlib.import_module("vnpy.event")
    objects: Any = importlib.import_module("vnpy.trader.object")
    ctp: Any = importlib.import_module("vnpy_ctp.gateway.ctp_gateway")
    contracts: list[Any] = []
    last: dict[str, dict[str, Any]] = {}
    ticks: Counter[str] = Counter()

    class MdApi(ctp.CtpMdApi):  # type: ignore[misc]
        """Keeps each tick as the binding made it."""

        def onRtnDepthMarketData(self, data: dict[str, Any]) -> None:
            last[data["InstrumentID"]] = data
            ctp.CtpMdApi.onRtnDepthMarketData(self, data)

    def on_log(event: Any) -> None:
        say(log=event.data.msg)

    def on_contract(event: Any) -> None:
        contracts.append(event.data)

    def on_tick(event: Any) -> None:
        symbol: str = event.data.symbol
        ticks[symbol] += 1

    engine = events.EventEngine()
    engine.register("eLog", on_log)
    engine.register("eContract.", on_contract)
    engine.register("eTick.", on_tick)
    engine.start()
    gateway = ctp.CtpGateway(engine, "CTP")
    gateway.md_api = MdApi(gateway)
    gateway.connect(
        {
            "用户名": "alice",
            "密码": "secret",
            "经纪商代码": "9999",
            "交易服务器": address,
            "行情服务器": address,
            "产品名称": "client_1",
            "授权编码": "0000",
            "柜台环境": "测试",
        }
    )
    for line in sys.stdin:
        word, *words = line.split()
        match word:
            case "subscribe":
                for contract in contracts[: int(words[0]) or None]:
                    gateway.subscribe(objects.SubscribeRequest(contract.symbol, contract.exchange))
                say(subscribed=len(gateway.md_api.subscribed))
            case "report":
                names = {contract.symbol: contract.name for contract in contracts}
                say(contracts=len(contracts), ticks=ticks.total(), ticking=len(ticks), names=names)
            case "tick":
                say(tick=last.get(words[0]))
            case "front":
                say(front=gateway.td_api.getFrontInfo())
            case _:
                say(unknown=word)
    os._exit(0)  # close() may never return, and an end in order may crash.


if __name__ == "__main__":
    main(sys.argv[1])

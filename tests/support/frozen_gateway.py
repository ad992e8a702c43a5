"""A gateway's process whose interpreter stands still at the first subscription.

Run as ``python -m tests.support.frozen_gateway``, in the place of the real one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from aegis.marketdata import _gateway_process
from aegis.marketdata._contract import Contract
from aegis.marketdata.adapters._simulated import SimulatedGateway


def freeze(gateway: SimulatedGateway, contracts: Sequence[Contract]) -> None:
    # A call through PyDLL keeps the interpreter's lock, and this one never returns.
    ctypes.PyDLL(None).pause()


if __name__ == "__main__":
    SimulatedGateway.subscribe = freeze  # type: ignore[assignment, method-assign]
    _gateway_process.START_SECONDS = 3600.0  # type: ignore[misc]
    _gateway_process.STUCK_SECONDS = 5.0  # type: ignore[misc]
    _gateway_process.main()

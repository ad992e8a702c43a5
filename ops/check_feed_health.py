#!/usr/bin/env python3
"""Judge the active feed of a market, for probes, timers and people; changes nothing.

::

    ops/check_feed_health.py --exchange SHFE --product rb --limit 20 --json

It is ``aegis feed health`` under a name of its own. The exit code is 0 fine, 1 degraded,
2 critical, 3 cannot tell, 4 wrong use.
"""

from __future__ import annotations

import sys

from aegis.ops.cli import app

__all__ = ["main"]


def main() -> None:
    """Run it with the arguments of the process."""
    app(["feed", "health", *sys.argv[1:]], prog_name="aegis")


if __name__ == "__main__":
    main()

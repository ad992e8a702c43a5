"""``python -m aegis`` is the command ``aegis``."""

from __future__ import annotations

from aegis.ops.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()

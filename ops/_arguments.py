"""Arguments of the commands that read their own: wrong ones are told in one line."""

from __future__ import annotations

import argparse
from typing import NoReturn

from aegis.errors import ConfigurationError

__all__ = ["LineParser"]


class LineParser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` that raises what is wrong instead of printing its usage."""

    def error(self, message: str) -> NoReturn:
        """Raise what the command line prints as one line, with exit code 2."""
        text = message.removeprefix("argument ")
        raise ConfigurationError(f"{text}; `{self.prog} --help` shows all")

"""The command line as a whole: wrong use is one line, as a wrong value of an option is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Final

from typer.core import TyperGroup

from aegis.errors import ConfigurationError
from aegis.ops._output import EXIT_USAGE, Output

__all__ = ["CommandGroup"]

_EXIT_CODES: Final = {"aegis feed health": 4}
"""Of wrong use, where 2 means something else: there it is a verdict."""


class CommandGroup(TyperGroup):
    """Commands whose wrong use ends with one line on stderr and exit code 2."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command that ``args`` name; the process ends with its exit code."""
        words = list(sys.argv[1:] if args is None else args)
        if not words or not standalone_mode:
            return super().main(words, prog_name, complete_var, standalone_mode, **extra)
        try:
            code = super().main(words, prog_name, complete_var, standalone_mode=False, **extra)
        except Exception as error:
            # Typer's errors of use have no public base class; this method makes them out.
            format_message = getattr(error, "format_message", None)
            if format_message is None:
                raise
            if type(error).__name__ == "NoArgsIsHelpError":
                # A group that was named alone: its help is what was asked for.
                sys.stdout.write(f"{format_message()}\n")
                sys.exit(EXIT_USAGE)
            path = getattr(getattr(error, "ctx", None), "command_path", None)
            if path is None:
                path = " ".join([prog_name or self.name or "", *words[:1]]).strip()
            text = str(format_message()).rstrip(".")
            separator = " " if text.endswith("?") else "; "
            told = ConfigurationError(f"{text}{separator}`{path} --help` shows all")
            Output(json="--json" in words).error(told)
            sys.exit(_EXIT_CODES.get(path, EXIT_USAGE))
        sys.exit(code)

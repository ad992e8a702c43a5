"""Where the value of an option comes from: a flag, a variable, ``aegis.toml``, in that order."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, cast

import attrs
from attrs import field, frozen

from aegis._config_values import show
from aegis.errors import ConfigurationError

__all__ = [
    "CONFIG_FILE",
    "CONFIG_VARIABLE",
    "Found",
    "Option",
    "Sources",
    "closest",
    "option",
    "options_of",
]

CONFIG_FILE: Final = "aegis.toml"
"""The file that is read from the working folder if no other is named."""

CONFIG_VARIABLE: Final = "AEGIS_CONFIG"

MAX_CONFIG_BYTES: Final = 1024 * 1024
MAX_SECRET_BYTES: Final = 64 * 1024

_OPTION: Final = "aegis_option"


@frozen
class Option:
    """What is known of one option: its name in each source, its check, its help."""

    name: str
    parse: Callable[[object], Any]
    help: str
    flag: str
    variable: str
    key: str
    metavar: str
    secret: bool = False
    names_file: bool = False
    default: Any = None


@frozen
class Found:
    """The value of an option and where it stood, in the words of a message."""

    value: Any
    source: str


def option[T](
    default: T,
    parse: Callable[[object], T],
    help: str,
    *,
    flag: str = "",
    variable: str = "",
    key: str = "",
    metavar: str = "",
    secret: bool = False,
    names_file: bool = False,
) -> T:
    """Declare a field of an options class; empty names follow from the field's name."""
    facts = dict(
        parse=parse,
        help=help,
        flag=flag,
        variable=variable,
        key=key,
        metavar=metavar,
        secret=secret,
        names_file=names_file,
    )
    made: Any = attrs.field(default=default, repr=not secret, metadata={_OPTION: facts})
    return cast("T", made)


def options_of(cls: type) -> dict[str, Option]:
    """Return the options among the fields of ``cls``, by name."""
    found: dict[str, Option] = {}
    for attribute in attrs.fields(cls):
        facts = attribute.metadata.get(_OPTION)
        if facts is not None:
            name = attribute.name
            found[name] = Option(
                name=name,
                default=attribute.default,
                **facts
                | {
                    "flag": facts["flag"] or f"--{name.replace('_', '-')}",
                    "variable": facts["variable"] or f"AEGIS_{name.upper()}",
                    "key": facts["key"] or name,
                },
            )
    return found


@frozen
class Sources:
    """The values that were given, none of them checked yet.

    ``given`` holds flags or arguments by the name of their option; None is as good as
    left out. ``flags`` says what to call them in messages: ``--heartbeat-interval``,
    or ``heartbeat_interval``.
    """

    given: Mapping[str, object]
    environ: Mapping[str, str]
    table: Mapping[str, Any] = field(factory=dict[str, Any])
    file: Path | None = None
    flags: bool = True
    place: str = ""

    @classmethod
    def read(
        cls,
        given: Mapping[str, object] | None = None,
        *,
        config: str | Path | None = None,
        environ: Mapping[str, str] | None = None,
        flags: bool = True,
    ) -> Sources:
        """Collect the sources; reads ``config``, else ``AEGIS_CONFIG``, else ./aegis.toml.

        Raises:
            ConfigurationError: a file that was named is not there, or no TOML.
        """
        environ = os.environ if environ is None else environ
        named = config or environ.get(CONFIG_VARIABLE) or None
        source = ("--config" if flags else "config") if config else CONFIG_VARIABLE
        file = Path(named or CONFIG_FILE).expanduser()
        table = _read_toml(file, source if named else None)
        if table is None:
            return cls(given or {}, environ, flags=flags)
        return cls(given or {}, environ, table, file, flags, place=str(file))

    def find(self, option: Option) -> Found | None:
        """Return the checked value of ``option``, or None if nothing gives one.

        Raises:
            ConfigurationError: the value is wrong; the message names where it stands.
        """
        value = self.given.get(option.name)
        if value is not None and value != [] and value != ():
            return _checked(option, value, option.flag if self.flags else option.name)
        variable = self.environ.get(option.variable)
        if variable:
            return _checked(option, variable, option.variable)
        if option.secret and self.environ.get(file := f"{option.variable}_FILE"):
            return _checked(option, _read_secret(file, self.environ[file]), file)
        value = self.table.get(option.key)
        if value is not None:
            source = f"{option.key} in {self.place}"
            return _checked(option, self._in_place(option, value), source)
        return None

    def resolve(self, path: str) -> Path:
        """Return ``path``, which stands in the file, as seen from the file's folder."""
        base = Path.cwd() if self.file is None else self.file.absolute().parent
        return base / Path(path).expanduser()

    def refuse_unknown(self, known: Collection[str]) -> None:
        """Raise ConfigurationError if the table has a key that is not ``known``."""
        for key in self.table:
            if key not in known:
                advice = closest(key, known) or "; `aegis run --help` lists what there is"
                raise ConfigurationError(
                    f"{self.place}: the key {show(key)} is unknown{advice}",
                    option=key,
                    source=self.place,
                )

    def _in_place(self, option: Option, value: object) -> object:
        if option.names_file and isinstance(value, str) and value:
            return str(self.resolve(value))
        if isinstance(value, list):
            items = cast("list[object]", value)
            return [self._in_place_item(item) for item in items]
        return self._in_place_item(value)

    def _in_place_item(self, item: object) -> object:
        """Resolve ``@file``, in a list of ids."""
        if isinstance(item, str) and len(item) > 1 and item[0] == "@" != item[1]:
            return f"@{self.resolve(item[1:])}"
        return item


def _checked(option: Option, value: object, source: str) -> Found:
    try:
        return Found(option.parse(value), source)
    except ValueError as error:
        # What is wrong with a secret must not show it.
        shows_it = not isinstance(value, str) or value in str(error)
        problem = "is not of the right form" if option.secret and shows_it else str(error)
        raise ConfigurationError(
            f"{source}: {problem}", option=option.name, source=source
        ) from None


def _read_secret(variable: str, path: str) -> str:
    """Return the first line of the file that ``variable`` names, as containers get secrets."""
    try:
        with Path(path).expanduser().open("rb") as file:
            lines = file.read(MAX_SECRET_BYTES).decode().splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise ConfigurationError(
            f"{variable}: {path} cannot be read: {reason}", option=variable, source=variable
        ) from None
    return lines[0] if lines else ""


def closest(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` if something known is near, else nothing."""
    near = difflib.get_close_matches(word.replace("-", "_"), sorted(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _read_toml(path: Path, source: str | None) -> dict[str, Any] | None:
    """Return the file's content; None if it is not there and nobody named it."""

    def refuse(problem: str) -> ConfigurationError:
        where = f"{source}: " if source else ""
        return ConfigurationError(
            f"{where}{path} {problem}", option="config", source=source or str(path)
        )

    try:
        with path.open("rb") as file:
            content = file.read(MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        if source is None:
            return None
        raise refuse("does not exist; name a file that does") from None
    except IsADirectoryError:
        raise refuse("is a folder; name a TOML file") from None
    except OSError as error:
        raise refuse(f"cannot be read ({error.strerror}); name a file that can") from None
    if len(content) > MAX_CONFIG_BYTES:
        raise refuse(f"has more than {MAX_CONFIG_BYTES // 1024**2} MiB; name a file of options")
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise refuse("is no UTF-8 text; save it as such") from None
    except tomllib.TOMLDecodeError as error:
        raise refuse(f"is no TOML: {error}; correct that place") from None

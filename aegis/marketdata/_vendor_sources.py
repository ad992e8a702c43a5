"""Sources of ticks that belong to a vendor: where to connect, as whom, with which secrets.

A password stands in no configuration: it names a file or an environment variable, which is
read when the gateway starts.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, Self

from attrs import evolve, field, frozen

from aegis import ConfigurationError

__all__ = ["SECRET_SETTINGS", "CtpSource", "VnpySource", "read_secret"]

SECRET_SETTINGS: Final = frozenset({"password", "auth_code"})
"""What people write into a configuration and should not."""


@frozen
class CtpSource:
    """An account at a CTP front, or at one of its twin for options on shares (SOPT).

    Each list of fronts may have several addresses, as in ``tcp://10.0.0.1:41205``; the
    vendor's library takes one that answers.
    """

    broker: str
    user: str
    trading_fronts: tuple[str, ...]
    market_fronts: tuple[str, ...]
    app_id: str = ""
    password_file: str = ""
    password_env: str = ""
    auth_code_file: str = ""
    auth_code_env: str = ""
    confirm_settlement: bool = False
    """The account holder's consent: vnpy confirms the settlement statement at each login."""
    production: bool = True
    """False for the front of a test environment that wants the vendor's test mode."""
    folder: str = ""
    """Where the vendor's library keeps its files; left out, one named after the feed."""
    requests_per_second: int = 1_000
    """Subscriptions sent at most, one symbol in each; only vnpy's binding needs it."""

    @property
    def password(self) -> str:
        """Read the password.

        Raises:
            ConfigurationError: it is not where the configuration says.
        """
        return read_secret("password", self.password_file, self.password_env)

    @property
    def auth_code(self) -> str:
        """Read the code that belongs to the app id; empty where there is no app id.

        Raises:
            ConfigurationError: it is not where the configuration says.
        """
        if not self.app_id:
            return ""
        return read_secret("auth_code", self.auth_code_file, self.auth_code_env)

    def anchored(self, base: Path, feed: str) -> Self:
        """Return the same with paths that are relative to ``base`` made whole."""
        return evolve(
            self,
            password_file=_anchored(base, self.password_file),
            auth_code_file=_anchored(base, self.auth_code_file),
            folder=_anchored(base, self.folder or f"flow/{feed}"),
        )


@frozen
class VnpySource:
    """Any gateway that is written in Python for vnpy.

    ``gateway`` is its class, as in ``my_package.gateway:MyGateway``; ``setting`` is what its
    ``connect`` gets. Secrets among that are named apart: ``setting_file`` and
    ``setting_env`` say for a key of the setting in which file or variable its value is.
    """

    gateway: str
    setting: dict[str, Any] = field(factory=dict[str, Any])
    setting_file: dict[str, str] = field(factory=dict[str, str])
    setting_env: dict[str, str] = field(factory=dict[str, str])
    folder: str = ""
    """Where vnpy keeps its files; left out, one named after the feed."""
    contracts_settle: float = 1.0
    """Seconds without another contract after which all are taken to be known: vnpy's
    gateways do not say when that is."""
    requests_per_second: int = 1_000

    def full_setting(self) -> dict[str, Any]:
        """Return what ``connect`` gets, secrets read.

        Raises:
            ConfigurationError: a secret is not where the configuration says.
        """
        secrets = {
            **{key: read_secret(f"setting {key!r}", p, "") for key, p in self.setting_file.items()},
            **{key: read_secret(f"setting {key!r}", "", v) for key, v in self.setting_env.items()},
        }
        return {**self.setting, **secrets}

    def anchored(self, base: Path, feed: str) -> Self:
        """Return the same with paths that are relative to ``base`` made whole."""
        return evolve(
            self,
            setting_file={key: _anchored(base, path) for key, path in self.setting_file.items()},
            folder=_anchored(base, self.folder or f"flow/{feed}"),
        )


def _anchored(base: Path, path: str) -> str:
    return str(base / path) if path else ""


def read_secret(what: str, file: str, variable: str) -> str:
    """Return a secret from a file (without its last line end) or an environment variable.

    Raises:
        ConfigurationError: it is not there, or empty; the message never holds any of it.
    """
    if file and variable:
        raise ConfigurationError(f"{what}: a file and a variable are named; name one of them")
    if file:
        try:
            secret = Path(file).read_text(encoding="utf-8").rstrip("\r\n")
        except OSError as error:
            raise ConfigurationError(
                f"{what}: {file} cannot be read: {error.strerror or error}"
            ) from error
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"{what}: {file} holds no text in UTF-8") from error
        where = file
    elif variable:
        secret, where = os.environ.get(variable, ""), f"the environment variable {variable}"
    else:
        raise ConfigurationError(
            f"{what}: name its file ({what}_file) or environment variable ({what}_env)"
        )
    if not secret:
        raise ConfigurationError(f"{what}: {where} is empty or not there; put the secret into it")
    return secret

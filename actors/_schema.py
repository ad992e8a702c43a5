"""Versions of events and states: what an earlier release wrote is brought up to date.

An event is journaled with its version. A state of version 1 is journaled as it is, one
of a later version as ``{"$version": n, "state": ...}``: a journal from before there were
versions is one of version 1.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from attrs import field, frozen

from aegis.errors import ConfigurationError, InvalidRequest

__all__ = ["Schema", "Upcaster", "check_static", "plain_state", "versioned_state"]

_VERSION: Final = "$version"
_STATE: Final = "state"


@frozen
class Upcaster:
    """One step from a version to the next, from plain values to plain values."""

    from_version: int
    function: Callable[[Any], Any]
    structure: Callable[[Any], Any]
    unstructure: Callable[[Any], Any]

    def __call__(self, plain: Any) -> Any:
        """Return ``plain`` as the next version has it.

        Raises:
            InvalidRequest: the step failed.
        """
        try:
            return self.unstructure(self.function(self.structure(plain)))
        except Exception as error:
            name = getattr(self.function, "__qualname__", "upcasts")
            text = str(error) or type(error).__name__
            raise InvalidRequest(
                f"{name} cannot bring version {self.from_version} up to date: {text}", field=""
            ) from error


@frozen
class Schema:
    """The versions of one event or state: ``version`` is what is written now."""

    name: str
    version: int
    structure: Callable[[Any], Any]
    upcasters: Mapping[int, Upcaster] = field(factory=dict[int, Upcaster])

    @classmethod
    def of(
        cls,
        where: str,
        name: str,
        version: object,
        structure: Callable[[Any], Any],
        upcasters: list[Upcaster],
    ) -> Schema:
        """Return the schema, checked.

        Raises:
            ConfigurationError: the version is none, or a step is missing, of no use or
                there twice.
        """
        if type(version) is not int or version < 1:
            raise ConfigurationError(
                f"{where}: the version of {name} must be a whole number from 1"
            )
        steps: dict[int, Upcaster] = {}
        for upcaster in upcasters:
            at = f"{where}: @upcasts({name}, from_version={upcaster.from_version})"
            if upcaster.from_version in steps:
                raise ConfigurationError(f"{at} is there twice; keep one")
            if upcaster.from_version >= version:
                raise ConfigurationError(
                    f"{at} leads beyond version {version}, which is the latest"
                )
            steps[upcaster.from_version] = upcaster
        missing = [n for n in range(min(steps, default=version), version) if n not in steps]
        if missing:
            raise ConfigurationError(
                f"{where}: @upcasts({name}, from_version={missing[0]}) is missing: there is a step "
                f"before it, and {version} is the latest version"
            )
        return cls(name, version, structure, steps)

    def read(self, version: object, plain: Any) -> Any:
        """Return the value that ``plain``, of ``version``, stands for today.

        Raises:
            InvalidRequest: it is of a version that the class cannot read, or does not fit.
        """
        if type(version) is not int or version < 1:
            raise InvalidRequest(f"{version!r} is no version", field="")
        if version > self.version:
            raise InvalidRequest(
                f"it is of version {version}, and the class knows {self.name} up to version "
                f"{self.version} only: a later release wrote it",
                field="",
            )
        for step in range(version, self.version):
            upcaster = self.upcasters.get(step)
            if upcaster is None:
                raise InvalidRequest(
                    f"it is of version {version}, and the class reads version {self.version} only: "
                    f"add @upcasts({self.name}, from_version={version})",
                    field="",
                )
            plain = upcaster(plain)
        return self.structure(plain)


def versioned_state(
    schema: Schema, unstructure: Callable[[Any], Any]
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return the functions that read and write a state with its version."""

    def read(plain: Any) -> Any:
        if isinstance(plain, dict):
            wire = cast("dict[object, Any]", plain)
            if wire.keys() == {_VERSION, _STATE}:
                return schema.read(wire[_VERSION], wire[_STATE])
        return schema.read(1, cast("Any", plain))

    def write(state: Any) -> Any:
        return {_VERSION: schema.version, _STATE: unstructure(state)}

    return read, unstructure if schema.version == 1 else write


def plain_state(plain: Any) -> Any:
    """Return the state that was written, whatever its version, without that."""
    if isinstance(plain, dict):
        wire = cast("dict[object, Any]", plain)
        if wire.keys() == {_VERSION, _STATE}:
            return wire[_STATE]
    return cast("Any", plain)


def check_static(where: str, function: object) -> Callable[[Any], Any]:
    """Return the function of an upcaster, which must be static and take one value."""
    if not isinstance(function, staticmethod):
        raise ConfigurationError(
            f"{where}: an @upcasts method takes the old value alone; put @staticmethod above it"
        )
    inner = cast(
        "Callable[[Any], Any]", function.__func__
    )  # pyright: ignore[reportUnknownMemberType]
    if inspect.iscoroutinefunction(inner) or len(inspect.signature(inner).parameters) != 1:
        raise ConfigurationError(
            f"{where}: an @upcasts method is a plain def that takes the old value alone"
        )
    return inner

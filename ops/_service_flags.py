"""Which service of ``aegis run`` an option belongs to: the one that stands before it.

``aegis run a.py:A --resource 1 b.py:B --resource 2`` runs two services, each with its
own resource. With a single service the place does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import typer
from typer.core import TyperCommand

__all__ = ["SERVICE_FLAGS", "ServiceFlags", "services_of", "split_services"]

SERVICE_FLAGS: Final = {
    "--instance-id": "instance_id",
    "--resource": "resources",
    "--role": "role",
}

_META: Final = "aegis.services"


class ServiceFlags(TyperCommand):
    """A command that keeps what stands behind each of its targets apart."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Sort the options by service, then go on as usual."""
        valued = {
            name
            for parameter in self.params
            if parameter.param_type_name == "option" and not getattr(parameter, "is_flag", False)
            for name in parameter.opts
        }
        before, services = split_services(args, valued)
        rest = super().parse_args(ctx, args)
        if before and len(services) == 1:
            services[0] = _merged(before, services[0])
        elif before and services:
            flag = next(flag for flag, name in SERVICE_FLAGS.items() if name in before)
            raise typer.BadParameter(
                f"{flag} stands before several services; write it behind the one it belongs to",
                ctx=ctx,
            )
        elif before:
            services = [before]
        ctx.meta[_META] = services
        return rest


def services_of(ctx: typer.Context) -> list[dict[str, Any]]:
    """Return the services of the command line, as `run_options` takes them."""
    services: list[dict[str, Any]] = ctx.meta[_META]
    return services


def split_services(
    args: Sequence[str], valued: set[str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the service options before the first target, and those of each target.

    ``valued`` are the options that take a value; what is wrong is left for the parser.
    """
    before: dict[str, Any] = {}
    services: list[dict[str, Any]] = []
    words = iter(args)
    for word in words:
        if word == "--":
            services += [{"target": target} for target in words]
        elif word.startswith("-") and word != "-":
            flag, equals, value = word.partition("=")
            if not equals and flag in valued:
                value = next(words, "")
            name = SERVICE_FLAGS.get(flag)
            if name is not None:
                _add(services[-1] if services else before, name, value)
        else:
            services.append({"target": word})
    return before, services


def _add(service: dict[str, Any], name: str, value: str) -> None:
    if name == "resources":
        service.setdefault(name, []).append(value)
    else:
        service[name] = value


def _merged(before: dict[str, Any], service: dict[str, Any]) -> dict[str, Any]:
    resources = [*before.get("resources", []), *service.get("resources", [])]
    return {**before, **service} | ({"resources": resources} if resources else {})

"""`ServiceClient`: for code that is no actor, yet registers a service or calls others."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from aegis._clock import SystemClock
from aegis._cluster import Connecting, connect
from aegis._config import ConnectOptions
from aegis.actors._membership import Membership, Registration
from aegis.contracts import Role
from aegis.errors import AegisError, InvalidRequest

__all__ = ["ServiceClient"]


class ServiceClient:
    """Registers one instance and its resources, keeps them alive, and calls actors.

    ::

        async with ServiceClient() as client:
            await client.register("gateway", "gw-1")
            await client.register_resource(["LINE-1", "LINE-2"])
            await client.call("account", "balance", resource_id="ACC-1")

    Arguments are those of `connect`. While it is open it beats for what it has
    registered; leaving it unregisters all. Requests to its instance are not answered:
    code that has handlers is an `AegisActor`.
    """

    def __init__(
        self,
        nats: str | tuple[str, ...] = (),
        *,
        options: ConnectOptions | None = None,
        **settings: Any,
    ) -> None:
        self._connecting: Connecting = connect(nats, options=options, **settings)
        self._membership: Membership | None = None
        self._service = ""
        self._instance_id = ""

    async def __aenter__(self) -> Self:
        self._cluster = await self._connecting.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        membership, self._membership = self._membership, None
        try:
            if membership is not None:
                # If nobody leads now, silence will say the same.
                with contextlib.suppress(AegisError):
                    await membership.unregister(self._service, self._instance_id, timeout=5.0)
                await membership.stop()
        finally:
            await self._connecting.__aexit__(exc_type, exc, traceback)

    async def register(
        self, service_name: str, instance_id: str, metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Register this process as an instance of a service.

        Raises:
            InvalidRequest: a name is wrong, or an instance is registered already.
            Conflict: the id is alive in another process; the error names it.
            Unavailable: no supervisor leads.
        """
        if self._membership is not None:
            raise InvalidRequest(
                f"this client is {self._instance_id} already; use another client for another one",
                field="instance_id",
            )
        node_id = f"client-{os.getpid()}-{secrets.token_hex(4)}"
        membership = Membership(
            self._cluster.transport, self._cluster.subjects, SystemClock(), node_id
        )
        await membership.start()
        facts = {"pid": os.getpid(), "host": socket.gethostname(), **(metadata or {})}
        try:
            await membership.register(
                service_name, instance_id, metadata=facts, timeout=self._cluster.timeout
            )
        except BaseException:
            await membership.stop()
            raise
        self._membership = membership
        self._service, self._instance_id = service_name, instance_id

    async def register_resource(
        self,
        resource_ids: Sequence[str],
        role: Role | str = Role.ACTIVE,
        force: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> Registration:
        """Register resources for the instance.

        Returns what was registered, with its epochs, and ``conflicts``: the owner of
        each resource that somebody else holds.

        Raises:
            InvalidRequest: an id or the role is wrong.
            TooManyResources: the instance would hold too many.
        """
        membership = self._registered()
        try:
            chosen = Role(role)
        except ValueError:
            raise InvalidRequest(
                f"role: must be active or standby, not {role!r}", field="role"
            ) from None
        return await membership.register_resources(
            self._service,
            self._instance_id,
            list(resource_ids),
            role=chosen,
            force=force,
            metadata=metadata,
            timeout=self._cluster.timeout,
        )

    async def release_resource(self, resource_ids: Sequence[str]) -> list[str]:
        """Give resources back; return those that were held.

        Raises:
            NotOwner: another instance owns one of them; the error names it.
            NotFound: nobody does.
        """
        return await self._registered().release_resources(
            self._service, self._instance_id, list(resource_ids), timeout=self._cluster.timeout
        )

    async def call(
        self,
        service: str,
        method: str,
        params: dict[str, Any] | None = None,
        *,
        resource_id: str | None = None,
        instance_id: str | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Call a handler by name, as `Cluster.call` does."""
        return await self._cluster.call(
            service,
            method,
            params,
            resource_id=resource_id,
            instance_id=instance_id,
            timeout=timeout,
        )

    def _registered(self) -> Membership:
        if self._membership is None:
            raise InvalidRequest(
                "no instance is registered; call register(service, instance_id) first",
                field="instance_id",
            )
        return self._membership

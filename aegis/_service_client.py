"""`ServiceClient`: for code that is no actor, yet registers a service or calls others."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, Self

import structlog

from aegis._clock import SystemClock
from aegis._cluster import Cluster, Connecting, connect
from aegis._config import ConnectOptions
from aegis.actors._membership import Membership, Registration
from aegis.contracts import Role
from aegis.errors import AegisError, InvalidRequest, Unavailable

__all__ = ["ServiceClient"]

_log = structlog.get_logger("aegis.service_client")


def _of_cluster[**P, R](
    method: Callable[Concatenate[Cluster, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[ServiceClient, P], Coroutine[Any, Any, R]]:
    """Return a method that does what one of `Cluster` does."""

    @wraps(method)
    def forward(
        self: ServiceClient, /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R]:
        return method(self._cluster, *args, **kwargs)

    return forward


class ServiceClient:
    """Registers one instance and its resources, keeps them alive, and calls actors.

    ::

        async with ServiceClient() as client:
            await client.register("gateway", "gw-1")
            await client.register_resource(["LINE-1", "LINE-2"])
            await client.call("account", "balance", resource_id="ACC-1")

    Arguments are those of `connect`. While it is open it beats for what it has
    registered, and registers anew if the supervisors forgot it in a long silence; leaving
    it unregisters all. Requests to its instance are not answered: code that has handlers
    is an `AegisActor`.
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
        self._facts: dict[str, Any] = {}
        self._resources: dict[str, tuple[Role, Mapping[str, Any] | None]] = {}
        self._returning: asyncio.Task[None] | None = None

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
        if self._returning is not None:
            self._returning.cancel()
            await asyncio.gather(self._returning, return_exceptions=True)
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
            self._cluster.transport,
            self._cluster.subjects,
            SystemClock(),
            node_id,
            listener=_Listener(self),
            tracer=self._cluster.tracer,
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
        self._service, self._instance_id, self._facts = service_name, instance_id, facts

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
        registration = await membership.register_resources(
            self._service,
            self._instance_id,
            list(resource_ids),
            role=chosen,
            force=force,
            metadata=metadata,
            timeout=self._cluster.timeout,
        )
        for resource_id in registration.registered:
            self._resources[resource_id] = chosen, metadata
        return registration

    async def release_resource(self, resource_ids: Sequence[str]) -> list[str]:
        """Give resources back; return those that were held.

        Raises:
            NotOwner: another instance owns one of them; the error names it.
            NotFound: nobody does.
        """
        membership = self._registered()
        for resource_id in resource_ids:
            self._resources.pop(resource_id, None)
        return await membership.release_resources(
            self._service, self._instance_id, list(resource_ids), timeout=self._cluster.timeout
        )

    call = _of_cluster(Cluster.call)
    send = _of_cluster(Cluster.send)
    result = _of_cluster(Cluster.result)
    resolve = _of_cluster(Cluster.resolve)

    def _registered(self) -> Membership:
        if self._membership is None:
            raise InvalidRequest(
                "no instance is registered; call register(service, instance_id) first",
                field="instance_id",
            )
        return self._membership

    def _evicted(self, error: AegisError) -> None:
        _log.warning("evicted", instance_id=self._instance_id, error=str(error))
        if self._membership is not None and (self._returning is None or self._returning.done()):
            self._returning = asyncio.get_running_loop().create_task(self._return())

    async def _return(self) -> None:
        """Register all anew, however long nobody leads."""
        membership, service, instance_id = self._registered(), self._service, self._instance_id
        timeout = self._cluster.timeout
        while True:
            try:
                await membership.register(
                    service, instance_id, metadata=self._facts, timeout=timeout
                )
                for resource_id, (role, metadata) in list(self._resources.items()):
                    registration = await membership.register_resources(
                        service,
                        instance_id,
                        [resource_id],
                        role=role,
                        metadata=metadata,
                        timeout=timeout,
                    )
                    for name, owner in registration.conflicts.items():
                        del self._resources[name]
                        _log.error("resource_lost", resource_id=name, owner=owner)
            except Unavailable as error:
                _log.warning("not_registered_yet", instance_id=instance_id, error=str(error))
            except AegisError as error:
                _log.error("not_registered", instance_id=instance_id, error=str(error))
                return
            else:
                _log.info("registered_anew", instance_id=instance_id)
                return


class _Listener:
    """What a client's membership tells; it answers nobody, so leases are nothing to it."""

    def __init__(self, client: ServiceClient) -> None:
        self._client = client

    def on_covered(self, service: str, resource_id: str, epoch: int) -> None:
        pass

    def on_uncovered(self, service: str, resource_id: str, epoch: int) -> None:
        pass

    def on_evicted(self, instance_id: str, error: AegisError) -> None:
        self._client._evicted(error)

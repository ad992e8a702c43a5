"""The picture of a running system: services, instances, resources, nodes.

What supervisors and nodes answer is passed on as the maps that they sent, so that a
newer node may say more; only the keys used here are relied on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from attrs import define, field, frozen

from aegis._clock import SystemClock
from aegis._subjects import Subjects
from aegis.actors._failover_log import Promotion
from aegis.actors._lease import Beat
from aegis.actors._membership import control_request
from aegis.actors._registration import MAX_PAGE
from aegis.contracts import Role
from aegis.errors import AegisError, NoResponders, NotFound, ProtocolError, Unavailable, from_wire
from aegis.transport._base import Message, Transport
from aegis.transport._codec import decode_value, encode_value

__all__ = ["Inspector", "NodeHealth", "SystemPicture"]

CONTROL_TIMEOUT: Final = 2.0
"""Seconds to wait for a supervisor, which may just be reading the registry."""

DISCONNECT_TIMEOUT: Final = 5.0
"""Seconds to wait for a supervisor to lead, and to write what an eviction changes."""

HEALTH_TIMEOUT: Final = 1.0
"""Seconds to wait for a node to say how it is; one that is busy answers late."""

BEATS_SECONDS: Final = 0.6
"""How long beats are listened to: a little over the interval that nodes have by default."""

MAX_HEALTH_REQUESTS: Final = 64
"""Nodes that are asked at the same time."""


@frozen
class NodeHealth:
    """What a node said of itself. Empty ``facts`` mean that it did not answer."""

    node_id: str
    facts: Mapping[str, Any]
    round_trip_seconds: float = 0.0
    asked_at_ms: int = 0

    @property
    def status(self) -> str:
        """What the node calls its state, or ``no answer``."""
        if not self.facts:
            return "no answer"
        return str(self.facts.get("state") or self.facts.get("status") or "ok")

    @property
    def candidate(self) -> bool:
        """Whether it leads, or could if the leader were lost."""
        return bool(self.facts.get("candidate"))

    def actors(self) -> dict[str, dict[str, Any]]:
        """Return the node's actors and supervisors by address, without their children."""
        found: dict[str, dict[str, Any]] = {}
        waiting: list[Any] = [self.facts.get("tree")]
        while waiting:
            actor = waiting.pop()
            if isinstance(actor, dict):
                facts: dict[str, Any] = dict(actor)  # pyright: ignore
                waiting.extend(facts.pop("children", ()))
                found[str(facts.get("address"))] = facts
        return found


@define
class SystemPicture:
    """All of a system at one moment, as far as it answers."""

    namespace: str
    services: list[dict[str, Any]] = field(factory=list[dict[str, Any]])
    resources: list[dict[str, Any]] = field(factory=list[dict[str, Any]])
    nodes: list[NodeHealth] = field(factory=list[NodeHealth])

    def actors(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Return all actors, by node and address."""
        return {
            (node.node_id, address): actor
            for node in self.nodes
            for address, actor in node.actors().items()
        }

    def holdings(self) -> dict[str, list[tuple[Role, dict[str, Any]]]]:
        """Return role and resource of all that each instance is active or standby for."""
        held: dict[str, list[tuple[Role, dict[str, Any]]]] = {}
        for resource in self.resources:
            held.setdefault(resource["instance_id"], []).append((Role.ACTIVE, resource))
            for standby in resource["standbys"]:
                held.setdefault(standby["instance_id"], []).append((Role.STANDBY, resource))
        return held


class Inspector:
    """Asks the supervisors and the nodes of one namespace."""

    def __init__(self, transport: Transport, subjects: Subjects) -> None:
        self._transport = transport
        self._subjects = subjects
        self._clock = SystemClock()

    async def services(self, service: str | None = None) -> list[dict[str, Any]]:
        """Return the services, each with its instances.

        Raises:
            NotFound: there is no such service.
            Unavailable: no supervisor answers.
        """
        return (await self.overview(service))[0]

    async def overview(
        self, service: str | None = None
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Return the services, and ``node_id`` and ``term`` of the supervisor that leads.

        Raises:
            As `services` does.
        """
        answer = await self._ask("service.query", {"service_name": service})
        return list(answer["services"]), dict(answer.get("leader") or {})

    async def failovers(self) -> list[Promotion]:
        """Return the last failovers, the newest first; of other releases' what can be read.

        Raises:
            Unavailable: no supervisor answers.
        """
        answer = await self._ask("service.query", {"failovers": True})
        found: list[Promotion] = []
        for record in answer.get("failovers") or ():
            with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):
                found.append(Promotion.from_record(record))
        return found

    async def resources(
        self, service: str | None = None, *, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """Return the resources with owner and standbys, at most ``limit`` if given.

        Raises:
            Unavailable: no supervisor answers.
        """
        found: list[dict[str, Any]] = []
        after: Sequence[Any] | None = None
        while True:
            left = MAX_PAGE if limit is None else min(MAX_PAGE, limit - len(found))
            page, after = await self.resource_page(service, limit=left, after=after)
            found += page
            if after is None or (limit is not None and len(found) >= limit):
                return found

    async def resource_page(
        self,
        service: str | None = None,
        *,
        limit: int,
        after: Sequence[Any] | None = None,
        instance_id: str | None = None,
        contains: str = "",
        only: Sequence[str] = (),
        held: bool = False,
    ) -> tuple[list[dict[str, Any]], list[Any] | None]:
        """Return at most ``limit`` resources, and ``after`` of the page behind them, if any.

        Those that an instance owns (with ``held``: or stands by for), whose id contains a
        text, and that are in one of some conditions: `UNHEALTHY`, `ALONE`. A page may be
        short, and have one behind it all the same.

        Raises:
            InvalidRequest: ``after`` comes from no page, or ``limit`` is above `MAX_PAGE`.
            Unavailable: no supervisor answers.
        """
        answer = await self._ask(
            "resource.query",
            {
                "service_name": service,
                "after": None if after is None else list(after),
                "limit": limit,
                "instance_id": instance_id,
                "contains": contains or None,
                "only": list(only) or None,
                "held": held or None,
            },
        )
        return list(answer["resources"]), answer.get("next")

    async def routes(self, resource_id: str, service: str | None = None) -> list[dict[str, Any]]:
        """Return who holds a resource: one map for each service that has one of that name.

        Raises:
            NotFound: no service has it; the message names what is near.
            Unavailable: no supervisor answers.
        """
        answer = await self._ask(
            "resource.query", {"service_name": service, "resource_ids": [resource_id]}
        )
        return list(answer["resources"])

    async def disconnect(self, instance_id: str) -> dict[str, Any]:
        """Evict an instance; return what became of what it held.

        Raises:
            NotFound: there is no such instance.
            Unavailable: no supervisor leads.
        """
        answer = await control_request(
            self._transport,
            self._subjects,
            self._clock,
            "service.disconnect",
            {"instance_id": instance_id},
            timeout=DISCONNECT_TIMEOUT,
        )
        return _unrefused(answer)

    async def health(
        self,
        node_id: str,
        *,
        brief: bool = False,
        watched: bool = False,
        children: int | None = None,
    ) -> NodeHealth:
        """Return what a node says of itself; a ``brief`` answer lacks what may be long.

        With ``watched`` the node times its messages for the next while, so that whoever
        asks again sees how long they take. ``children`` is how many of each actor's are
        wanted, the first by name.
        """
        asked = {"brief": brief, "watched": watched, "children": children}
        asked = {name: value for name, value in asked.items() if value}
        payload = encode_value(asked) if asked else b""
        asked_at_ms, begun = self._clock.wall_ms(), self._clock.boot_seconds()
        answer: Any = None
        try:
            message = await self._transport.request(
                self._subjects.health(node_id), payload, timeout=HEALTH_TIMEOUT
            )
            answer = decode_value(message.payload)
        except (TimeoutError, Unavailable):
            pass
        except AegisError:
            answer = {"status": "answers what cannot be read"}
        took = self._clock.boot_seconds() - begun
        facts: dict[str, Any] = answer if isinstance(answer, dict) else {}  # pyright: ignore
        return NodeHealth(node_id, facts, took, asked_at_ms)

    async def beating(self) -> frozenset[str]:
        """Return the nodes that beat within `BEATS_SECONDS`, whether or not they serve."""
        found: set[str] = set()

        def on_beat(message: Message) -> None:
            with contextlib.suppress(ProtocolError):
                found.add(Beat.from_wire(decode_value(message.payload)).node_id)

        subscription = await self._transport.subscribe(self._subjects.heartbeat, on_beat)
        try:
            await asyncio.sleep(BEATS_SECONDS)
        finally:
            await subscription.unsubscribe()
        return frozenset(found)

    async def nodes(
        self,
        services: Iterable[Mapping[str, Any]],
        more: Iterable[str] = (),
        *,
        brief: bool = False,
        watched: bool = False,
        children: int | None = None,
    ) -> list[NodeHealth]:
        """Return what all nodes that run ``services``, and ``more``, say of themselves.

        See `health` for what can be asked for.
        """
        names = {instance["node_id"] for service in services for instance in service["instances"]}
        names.update(more)
        places = asyncio.Semaphore(MAX_HEALTH_REQUESTS)

        async def ask(node_id: str) -> NodeHealth:
            async with places:
                return await self.health(node_id, brief=brief, watched=watched, children=children)

        return list(await asyncio.gather(*(ask(name) for name in sorted(names))))

    async def picture(self, *, held: int | None = None) -> SystemPicture:
        """Return the whole system; with ``held``, of each instance only so many resources.

        Raises:
            Unavailable: no supervisor answers.
        """
        services = await self.services()
        picture = SystemPicture(self._subjects.namespace, services)
        # The instance itself is an actor beside those of its resources.
        children = None if held is None else held + 1
        picture.nodes = await self.nodes(services, await self.beating(), children=children)
        if held is None or sum(map(_held, _instances(services))) <= MAX_PAGE:
            picture.resources = await self.resources()
        elif held:
            picture.resources = await self._first_held(services, held)
        return picture

    async def _first_held(
        self, services: Iterable[Mapping[str, Any]], most: int
    ) -> list[dict[str, Any]]:
        """Return the first resources that each instance holds, by service and id."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        places = asyncio.Semaphore(MAX_HEALTH_REQUESTS)

        async def ask(instance_id: str) -> None:
            async with places:
                page, _ = await self.resource_page(
                    limit=min(most, MAX_PAGE), instance_id=instance_id, held=True
                )
            found.update({(one["service_name"], one["resource_id"]): one for one in page})

        holding = (one["instance_id"] for one in _instances(services) if _held(one))
        await asyncio.gather(*map(ask, holding))
        return [found[key] for key in sorted(found)]

    async def _ask(self, operation: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        asked = {key: value for key, value in payload.items() if value is not None}
        return _unrefused(await self._once(operation, asked))

    async def _once(self, operation: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Ask once: every supervisor answers queries, so silence means that there is none."""
        subject = f"{self._subjects.control_prefix}.{operation}"
        try:
            message = await self._transport.request(
                subject, encode_value(payload), timeout=CONTROL_TIMEOUT
            )
        except NoResponders as error:
            raise Unavailable(
                f"no node answers in the namespace {self._subjects.namespace!r}; start one with "
                "`aegis run`, or name another namespace"
            ) from error
        except TimeoutError as error:
            raise Unavailable(
                f"the supervisors did not answer within {CONTROL_TIMEOUT:g} s; see the logs of "
                "the nodes"
            ) from error
        answer: Any = decode_value(message.payload)
        if not isinstance(answer, dict):
            raise ProtocolError(f"the answer of {subject} is no map")
        return answer  # pyright: ignore[reportUnknownVariableType]


def _unrefused(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer, or raise what it refuses with."""
    code = answer.get("code")
    if code is None:
        return answer
    facts = {key: value for key, value in answer.items() if key not in ("code", "success")}
    if code == NotFound.code:
        raise NotFound(str(facts.pop("message", "")), **facts)
    raise from_wire(int(code), facts)


def _instances(services: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    return (instance for service in services for instance in service["instances"])


def _held(instance: Mapping[str, Any]) -> int:
    return int(instance.get("resources", 0)) + int(instance.get("standby_for", 0))

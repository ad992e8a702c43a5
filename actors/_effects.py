"""What a command does beside its state: events, outgoing messages, reminders.

They are gathered while its handler runs, and leave with the record that commits it; of a
command that fails they are forgotten.
"""

from __future__ import annotations

from typing import Any, Final

from aegis._trace import outgoing_traceparent
from aegis.actors._handlers import ActorSpec
from aegis.actors._journal import RESERVED_BYTES
from aegis.actors._outbox import MAX_UNSENT
from aegis.actors._outgoing import check_address, make_mail
from aegis.actors._owner import Owner
from aegis.actors._post_office import PostOffice
from aegis.actors._publication import encode_publication
from aegis.actors._record import Event, Outgoing, Reminder, ReminderOver
from aegis.actors._reminders import MAX_REMINDERS
from aegis.actors._schedule import Schedule
from aegis.contracts import Kind, ReplyTo
from aegis.errors import InvalidRequest, Overloaded
from aegis.transport._codec import encode_value

__all__ = ["Effects"]

MAX_NAME_BYTES: Final = 200


class Effects:
    """The effects of the command that runs now, of one resource."""

    __slots__ = ("_office", "_owner", "_spec", "events", "outgoing", "reminders", "resource")

    def __init__(self, spec: ActorSpec, resource: str, owner: Owner, office: PostOffice) -> None:
        self._spec = spec
        self._owner = owner
        self._office = office
        self.resource = resource
        self.events: list[Event] = []
        self.outgoing: list[Outgoing] = []
        self.reminders: list[Reminder | ReminderOver] = []

    @property
    def size_bytes(self) -> int:
        """At least as many bytes as they take in a record."""
        size = 0
        for event in self.events:
            size += len(event.body) + 64
        for message in self.outgoing:
            size += message.size_bytes
        for reminder in self.reminders:
            size += reminder.size_bytes
        return size

    def send(
        self,
        service: str,
        resource: str,
        method: str,
        params: dict[str, Any],
        reply_to: ReplyTo | None = None,
    ) -> str:
        """Number a message, to leave when the command commits; return its id.

        Raises:
            InvalidRequest: a name is no legal one, or a parameter cannot be sent.
            TooLarge: it does not fit a message.
            Overloaded: too many messages wait to be forwarded.
        """
        check_address(service, resource)
        self._check_room()
        return self.send_anyway(service, resource, method, params, reply_to)

    def _check_room(self) -> None:
        if self._owner.outbox.is_full or len(self.outgoing) >= MAX_UNSENT:
            raise Overloaded(
                f"{self._spec.service}/{self.resource}: too many messages wait to be forwarded",
                limit=MAX_UNSENT,
            )

    def send_anyway(
        self,
        service: str,
        resource: str,
        method: str,
        params: dict[str, Any],
        reply_to: ReplyTo | None = None,
    ) -> str:
        """Do as `send`, to an address that is known to be one, however many wait."""
        n = self._owner.outbox.last_n + len(self.outgoing) + 1
        message_id, payload = make_mail(
            self._office.transport,
            self._office.clock,
            session=f"{self._spec.service}/{self.resource}",
            n=n,
            service=service,
            resource=resource,
            method=method,
            params=params,
            reply_to=reply_to,
        )
        self.outgoing.append(Outgoing(n, service, resource, payload))
        return message_id

    def publish(self, topic: str, plain: Any) -> None:
        """Number a publication for a topic that is kept, to leave when the command commits.

        Raises:
            TooLarge: it does not fit a message.
            Overloaded: too many messages wait to be forwarded.
        """
        self._check_room()
        n = self._owner.outbox.last_n + len(self.outgoing) + 1
        limit = self._office.transport.max_payload_bytes - RESERVED_BYTES
        session = f"{self._spec.service}/{self.resource}"
        payload = encode_publication(topic, plain, limit, session=session, n=n)
        self.outgoing.append(Outgoing(n, "", topic, payload))

    def remind(self, name: str, method: str, params: dict[str, Any], schedule: Schedule) -> None:
        """Set a reminder, or set it anew.

        Raises:
            InvalidRequest: something is wrong; the error names the field.
            Overloaded: the resource has too many.
        """
        due = schedule.check(self._office.clock.wall_ms())
        self._check_name(name)
        handler = self._spec.handler(method, Kind.COMMAND)
        plain = handler.unstructure_params(handler.params_of((), params))
        handler.bind(plain)
        known = self._owner.reminders
        if name not in known and len(known) + len(self.reminders) >= MAX_REMINDERS:
            raise Overloaded(
                f"{self._spec.service}/{self.resource} has {MAX_REMINDERS} reminders already",
                limit=MAX_REMINDERS,
            )
        self.reminders.append(
            Reminder(
                name,
                handler.name,
                encode_value(plain),
                due.first_ms,
                due.every_ms,
                schedule.missed == "skip",
                outgoing_traceparent(),
                due.cron,
            )
        )

    def forget(self, name: str) -> None:
        """End a reminder; one that does not exist stays so."""
        self._check_name(name)
        self.reminders.append(ReminderOver(name))

    def _check_name(self, name: str) -> None:
        try:
            size = len(name.encode())
        except UnicodeEncodeError as error:
            raise InvalidRequest(f"name: {name!r} is no valid Unicode", field="name") from error
        if not 1 <= size <= MAX_NAME_BYTES:
            raise InvalidRequest(
                f"name: must have 1 to {MAX_NAME_BYTES} bytes, not {name!r}", field="name"
            )

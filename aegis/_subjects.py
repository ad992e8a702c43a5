"""The NATS subjects of one namespace, and how user text becomes a token in them."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from attrs import frozen

__all__ = ["DEFAULT_NAMESPACE", "Subjects", "escape", "unescape"]

DEFAULT_NAMESPACE: Final = "aegis"

_UNSAFE = re.compile(rb"[^A-Za-z0-9_-]")
_ESCAPED = re.compile(rb"=([0-9A-F]{2})")
_SAFE_TEXT = re.compile(r"[A-Za-z0-9_-]+")


def escape(text: str) -> str:
    """Return ``text`` as one subject token, reversibly.

    Letters, digits, ``-`` and ``_`` stay; any other byte of the UTF-8 form becomes
    ``=`` and two hexadecimal digits.
    """
    if _SAFE_TEXT.fullmatch(text):
        return text
    return _UNSAFE.sub(lambda match: b"=%02X" % match[0][0], text.encode()).decode("ascii")


def unescape(token: str) -> str:
    """Return the text that `escape` turned into ``token``."""
    if "=" not in token:
        return token
    raw = _ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), token.encode("ascii"))
    return raw.decode()


# Most publications go to the same few topics.
@lru_cache(maxsize=4_096)
def _topic_subject(namespace: str, topic: str) -> str:
    levels = (level if level in ("*", ">") else escape(level) for level in topic.split("."))
    return f"{namespace}.topic." + ".".join(levels)


@frozen
class Subjects:
    """Every subject of the namespace ``namespace``."""

    namespace: str = DEFAULT_NAMESPACE

    @property
    def stream(self) -> str:
        """The name of the one stream that holds all that is durable."""
        return self.namespace

    @property
    def durable(self) -> list[str]:
        """The subjects that the stream captures."""
        ns = self.namespace
        return [
            f"{ns}.{kind}.>" for kind in ("journal", "mailbox", "claim", "registry", "deadletter")
        ]

    @property
    def control_prefix(self) -> str:
        """``ipc``, or ``<namespace>.ipc`` in a namespace other than the default."""
        return "ipc" if self.namespace == DEFAULT_NAMESPACE else f"{self.namespace}.ipc"

    def service_control(self, verb: str) -> str:
        """``ipc.service.<verb>``; verbs are register, unregister, query."""
        return f"{self.control_prefix}.service.{verb}"

    def resource_control(self, verb: str) -> str:
        """``ipc.resource.<verb>``; verbs are register, release, query."""
        return f"{self.control_prefix}.resource.{verb}"

    def leader_control(self, operation: str) -> str:
        """``ipc.leader.<operation>``: a query to the supervisor that leads, and no other."""
        return f"{self.control_prefix}.leader.{operation}"

    def instance(self, instance_id: str) -> str:
        """The address of an instance and of all its resources."""
        return f"{self.namespace}.instance.{escape(instance_id)}"

    @property
    def heartbeat(self) -> str:
        """The beats of all nodes."""
        return f"{self.namespace}.heartbeat"

    def health(self, node_id: str) -> str:
        """A node answers a request here with its status and facts."""
        return f"{self.namespace}.health.{escape(node_id)}"

    def event(self, name: str) -> str:
        """Events: registered, released, promoted, unhealthy, gone."""
        return f"{self.namespace}.event.{name}"

    def topic(self, topic: str) -> str:
        """What is published to a topic, or to all that a pattern with wildcards means.

        Dots part the levels, and stay; so do the levels ``*`` and ``>``.
        """
        return _topic_subject(self.namespace, topic)

    def topic_of(self, subject: str) -> str:
        """Return the topic that `topic` turned into ``subject``."""
        levels = subject.removeprefix(f"{self.namespace}.topic.").split(".")
        return ".".join(map(unescape, levels))

    def topic_stream(self, root: str) -> str:
        """The stream that a node makes to keep the topics whose first level is ``root``."""
        return f"{self.namespace}_topic_{escape(root)}"

    def journal(self, service: str, resource: str) -> str:
        """The journal of one resource."""
        return f"{self.namespace}.journal.{escape(service)}.{escape(resource)}"

    def journals(self, service: str) -> str:
        """The journals of all resources of a service."""
        return f"{self.namespace}.journal.{escape(service)}.*"

    def mailbox(self, service: str, resource: str) -> str:
        """Durable sends to one resource."""
        return f"{self.namespace}.mailbox.{escape(service)}.{escape(resource)}"

    def mailboxes(self, service: str) -> str:
        """Durable sends to all resources of a service."""
        return f"{self.namespace}.mailbox.{escape(service)}.*"

    def dead_letter(self, service: str, resource: str, sequence: int, source: str = "") -> str:
        """What stood at ``sequence`` of a mailbox and could not be processed.

        Or of what the durable subscription ``source`` reads.
        """
        place = f"{escape(source)}-{sequence}" if source else str(sequence)
        return f"{self.namespace}.deadletter.{escape(service)}.{escape(resource)}.{place}"

    @property
    def dead_letters(self) -> str:
        """All that could not be processed."""
        return f"{self.namespace}.deadletter.>"

    def claim(self, service: str, message_id: str) -> str:
        """The commit of one command to a service group."""
        return f"{self.namespace}.claim.{escape(service)}.{escape(message_id)}"

    def registry(self, *tokens: str) -> str:
        """A record of the registry, as ``registry.<token>...``; tokens are escaped."""
        return ".".join([f"{self.namespace}.registry", *map(escape, tokens)])

"""Bytes to envelopes and back: the one place that knows msgpack.

A message holds one or more msgpack arrays, one after another. What does not decode
is a `ProtocolError` with one clear line; nothing else ever leaves the decoders.
How values of Python types look on the wire is decided by `aegis.transport._convert`.
"""

# Values from the wire have no type yet.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgpack

from aegis.contracts import ENVELOPE_VERSION, Kind, Mail, ReplyTo, Request
from aegis.errors import InvalidRequest, ProtocolError
from aegis.transport._convert import to_plain

__all__ = [
    "Correlation",
    "decode_mail",
    "decode_reply_values",
    "decode_requests",
    "decode_value",
    "encode_mail",
    "encode_reply",
    "encode_request",
    "encode_value",
    "join_values",
]

type Correlation = int | str | bytes | None
"""What tells the replies of one message apart; the fifth element of a reply."""

_REQUEST_TYPES: Final = (int, str, str, int, int, str, str, str, dict, int, int, int, str)
_REQUEST_LENGTH: Final = len(_REQUEST_TYPES)
_REQUEST_SHAPES: Final = frozenset(
    (*_REQUEST_TYPES[:6], resource, *_REQUEST_TYPES[7:]) for resource in (str, type(None))
)
_KINDS: Final = frozenset({"command", "query"})
_MAX_SHOWN: Final = 40

# msgpack's own limit, some 1,000 levels, is the same for reading and for writing. What
# was read must be writable again, inside an envelope or a record around it.
_MAX_DEPTH: Final = 500


class _Packers(threading.local):
    """One packer for each thread: a packer's buffer must not be shared."""

    def __init__(self) -> None:
        self.pack: Callable[[Any], bytes] = msgpack.Packer(autoreset=True, use_bin_type=True).pack


_packers: Final = _Packers()


def encode_value(value: Any) -> bytes:
    """Return ``value`` as msgpack.

    Types that msgpack does not know (Decimal, datetime, attrs classes, ...) are
    written as `to_plain` has them.

    Raises:
        InvalidRequest: the value has no form on the wire (an unknown type, an
            integer above 64 bits, text that is no Unicode, nesting too deep).
    """
    try:
        return _packers.pack(value)
    except TypeError:
        # Only a value with a type of its own takes this way. Its packer is its own
        # too, since `to_plain` may encode other values in turn.
        pass
    except (ValueError, OverflowError, UnicodeError, RecursionError) as error:
        raise _not_encodable(error) from error
    try:
        packed: bytes = msgpack.packb(value, default=to_plain, use_bin_type=True)
    except (TypeError, ValueError, OverflowError, UnicodeError, RecursionError) as error:
        raise _not_encodable(error) from error
    return packed


def join_values(encoded: Sequence[bytes]) -> bytes:
    """Return the msgpack array of values that are encoded already, up to 65,535."""
    count = len(encoded)
    head = bytes((0x90 | count,)) if count < 16 else b"\xdc" + count.to_bytes(2)
    return b"".join((head, *encoded))


def _not_encodable(error: Exception) -> InvalidRequest:
    text = str(error) or type(error).__name__
    return InvalidRequest(f"the value cannot be encoded: {text}", field="")


def decode_value(data: bytes) -> Any:
    """Return the one value that ``data`` holds.

    Raises:
        ProtocolError: ``data`` is not exactly one msgpack value.
    """
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=False, use_list=True)
    except Exception as error:
        # msgpack raises many unrelated classes: ValueError, UnicodeDecodeError,
        # TypeError for a map key that is a list, StackError, ...
        raise _not_decodable(error) from error


def _not_decodable(error: Exception) -> ProtocolError:
    if isinstance(error, ProtocolError):
        return error
    if isinstance(error, msgpack.StackError) or "recursion" in str(error):
        return ProtocolError("the message is nested too deep")
    if isinstance(error, msgpack.ExtraData):
        return ProtocolError("the message has bytes behind its end")
    if (
        isinstance(error, msgpack.OutOfData)
        or "incomplete" in str(error)
        or " exceeds max_" in str(error)
    ):
        return ProtocolError("the message is cut off or empty")
    text = (str(error) or type(error).__name__).splitlines()[0]
    return ProtocolError(f"the message is not msgpack: {text}")


def _decode_all(data: bytes) -> list[Any]:
    """Return every value of ``data``, of which there is at least one."""
    try:
        return [msgpack.unpackb(data, raw=False, strict_map_key=False, use_list=True)]
    except msgpack.ExtraData:
        pass
    except Exception as error:
        raise _not_decodable(error) from error
    values: list[Any] = []
    unpacker = _unpacker(data)
    end = len(data)
    try:
        while unpacker.tell() < end:
            values.append(unpacker.unpack())
    except Exception as error:
        raise _not_decodable(error) from error
    return values


def _unpacker(data: bytes) -> msgpack.Unpacker:
    unpacker = msgpack.Unpacker(
        raw=False, strict_map_key=False, use_list=True, max_buffer_size=max(len(data), 1)
    )
    unpacker.feed(data)
    return unpacker


def _depth_exceeds(value: Any, limit: int) -> bool:
    level: list[Any] = [value]
    for _ in range(limit):
        deeper: list[Any] = []
        for item in level:
            if type(item) is dict:
                deeper.extend(v for v in item.values() if type(v) in (dict, list))
            elif type(item) is list:
                deeper.extend(v for v in item if type(v) in (dict, list))
        if not deeper:
            return False
        level = deeper
    return True


# -- requests ---------------------------------------------------------------------


def encode_request(request: Request) -> bytes:
    """Return ``request`` as one msgpack array.

    Raises:
        InvalidRequest: a parameter has no form on the wire; it is named.
    """
    envelope = [
        ENVELOPE_VERSION,
        request.kind,
        request.session,
        request.n,
        request.low,
        request.service,
        request.resource,
        request.method,
        request.params,
        request.remaining_ms,
        request.first_sent_ms,
        request.attempt,
        request.trace,
    ]
    try:
        return encode_value(envelope)
    except InvalidRequest as error:
        raise _naming(request.params, error) from error


def _naming(params: dict[str, Any], error: InvalidRequest) -> InvalidRequest:
    """Return ``error`` with the name of the parameter that has no form on the wire."""
    for name, value in params.items():
        try:
            encode_value(value)
        except InvalidRequest as own:
            return InvalidRequest(f"{name}: {own.message}", field=name)
    return error


def decode_requests(data: bytes) -> list[Request]:
    """Return the requests that ``data`` holds, at least one.

    Raises:
        ProtocolError: ``data`` is not msgpack, not an envelope, of an unknown
            version, or has a field of the wrong type (the line names it).
    """
    return [_request(item) for item in _decode_all(data)]


def encode_mail(mail: Mail) -> bytes:
    """Return ``mail`` as it stands in a mailbox: a request, and where the reply goes.

    Raises:
        InvalidRequest: a parameter has no form on the wire.
    """
    encoded = encode_request(mail.request)
    if mail.reply_to is None:
        return encoded
    # An array of one element more; up to 15 elements its head is one byte.
    return bytes((encoded[0] + 1,)) + encoded[1:] + encode_value(list(mail.reply_to))


def decode_mail(data: bytes) -> Mail:
    """Return the message that ``data`` holds: a request of 13 elements, or one of 14.

    Raises:
        ProtocolError: it is none.
    """
    items = _decode_all(data)
    if len(items) != 1:
        raise ProtocolError(f"mail: a message holds one request, not {len(items)}")
    item = items[0]
    _check_array(item, "mail", (_REQUEST_LENGTH, _REQUEST_LENGTH + 1))
    reply_to = item.pop() if len(item) > _REQUEST_LENGTH else None
    request = _checked_request(item)
    if request.kind != Kind.COMMAND:
        raise ProtocolError(f"mail: a {request.kind} cannot be sent, only commands")
    if not request.session:
        raise ProtocolError("mail: session must not be empty")
    if reply_to is None:
        return Mail(request)
    if (
        type(reply_to) is not list
        or len(reply_to) != len(_REPLY_TO_FIELDS)
        or not all(type(part) is str and part for part in reply_to)
    ):
        wanted = ", ".join(_REPLY_TO_FIELDS)
        raise ProtocolError(f"mail: reply_to must be an array of three texts: {wanted}")
    return Mail(request, ReplyTo(*reply_to))


_REPLY_TO_FIELDS: Final = ("service", "resource", "method")


def _request(item: Any) -> Request:
    _check_array(item, "request", (_REQUEST_LENGTH,))
    return _checked_request(item)


def _checked_request(item: list[Any]) -> Request:
    """Return what an array of the right length and version holds."""
    (
        _,
        kind,
        session,
        n,
        low,
        service,
        resource,
        method,
        params,
        remaining,
        first,
        attempt,
        trace,
    ) = item
    if tuple(map(type, item)) in _REQUEST_SHAPES and n >= 0 and low >= 0 and kind in _KINDS:
        for name, value in params.items():
            if type(name) is not str:
                raise ProtocolError(f"request: params has a name that is not text: {_show(name)}")
            if type(value) in (dict, list) and _depth_exceeds(value, _MAX_DEPTH):
                raise ProtocolError(f"request: params.{name} is nested too deep")
        return Request(
            kind,
            session,
            n,
            low,
            service,
            resource,
            method,
            params,
            remaining,
            first,
            attempt,
            trace,
        )
    raise _bad_request_field(item)


_REQUEST_FIELDS: Final[tuple[tuple[str, str], ...]] = (
    ("version", "an integer"),
    ("kind", "'command' or 'query'"),
    ("session", "text"),
    ("n", "an integer from 0"),
    ("low", "an integer from 0"),
    ("service", "text"),
    ("resource", "text or nil"),
    ("method", "text"),
    ("params", "a map"),
    ("remaining_ms", "an integer"),
    ("first_sent_ms", "an integer"),
    ("attempt", "an integer"),
    ("trace", "text"),
)


def _bad_request_field(item: list[Any]) -> ProtocolError:
    for (name, wanted), value in zip(_REQUEST_FIELDS, item, strict=True):
        if wanted == "text":
            good = type(value) is str
        elif wanted == "an integer":
            good = type(value) is int
        elif wanted == "an integer from 0":
            good = type(value) is int and value >= 0
        elif wanted == "text or nil":
            good = value is None or type(value) is str
        elif wanted == "a map":
            good = type(value) is dict
        else:
            good = type(value) is str and value in _KINDS
        if not good:
            return ProtocolError(
                f"request: {name} must be {wanted}, not {_show(value)}", field=name
            )
    return ProtocolError("request: a field is of the wrong type")


def _check_array(item: Any, what: str, lengths: tuple[int, ...]) -> None:
    if type(item) is not list or not item:
        raise ProtocolError(f"{what}: the message must be an array, not {_show(item)}")
    version = item[0]
    if type(version) is not int or version != ENVELOPE_VERSION:
        raise ProtocolError(
            f"{what}: version {_show(version)} is unknown; this release speaks version {ENVELOPE_VERSION}"
        )
    if len(item) not in lengths:
        wanted = " or ".join(map(str, lengths))
        raise ProtocolError(f"{what}: the array has {len(item)} elements, not {wanted}")


def _show(value: Any) -> str:
    try:
        text = (
            repr(value)
            if type(value) in (int, float, str, bool, bytes, type(None))
            else type(value).__name__
        )
    except ValueError:  # An integer with too many digits to print.
        text = type(value).__name__
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


# -- replies ----------------------------------------------------------------------

_HEAD_4: Final = b"\x94" + msgpack.packb(ENVELOPE_VERSION)
_HEAD_5: Final = b"\x95" + msgpack.packb(ENVELOPE_VERSION)
_STATUS: Final[dict[int, bytes]] = {status: msgpack.packb(status) for status in range(200, 600)}


def encode_reply(n: int, status: int, value: bytes, correlation: Correlation = None) -> bytes:
    """Return a reply as one msgpack array, of five elements with a ``correlation``.

    ``value`` is msgpack already; it is taken as it is.
    """
    pack = _packers.pack
    encoded = _STATUS.get(status) or pack(status)
    if correlation is None:
        return b"".join((_HEAD_4, pack(n), encoded, value))
    return b"".join((_HEAD_5, pack(n), encoded, value, pack(correlation)))


def decode_reply_values(data: bytes) -> list[tuple[int, int, Any, Correlation]]:
    """Return the replies that ``data`` holds as ``(n, status, value, correlation)``.

    Raises:
        ProtocolError: ``data`` is not one or more replies.
    """
    replies: list[tuple[int, int, Any, Correlation]] = []
    for item in _decode_all(data):
        _check_array(item, "reply", (4, 5))
        n, status, value = item[1], item[2], item[3]
        correlation: Correlation = item[4] if len(item) == 5 else None
        _check_reply(n, status, correlation)
        replies.append((n, status, value, correlation))
    return replies


def _check_reply(n: Any, status: Any, correlation: Any) -> None:
    if type(n) is not int or n < 0:
        raise ProtocolError(f"reply: n must be an integer from 0, not {_show(n)}")
    if type(status) is not int:
        raise ProtocolError(f"reply: status must be an integer, not {_show(status)}")
    if correlation is not None and type(correlation) not in (int, str, bytes):
        raise ProtocolError(f"reply: the correlation must not be {_show(correlation)}")

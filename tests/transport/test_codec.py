"""Envelopes as bytes, and what happens to bytes that are none."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgpack
import pytest
from attrs import define, evolve
from hypothesis import given
from hypothesis import strategies as st

from aegis.contracts import Mail, ReplyTo, Request
from aegis.errors import InvalidRequest, ProtocolError
from aegis.transport import (
    decode_mail,
    decode_reply_values,
    decode_requests,
    decode_value,
    encode_mail,
    encode_reply,
    encode_request,
    encode_value,
)

REQUEST = Request(
    "command",
    "1700000000000-abc",
    7,
    5,
    "account",
    "ACC-1",
    "deposit",
    {"amount": "10.5"},
    2000,
    1,
    2,
    "t",
)

texts = st.text(max_size=20)
numbers = st.integers(0, 2**63 - 1)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)
    | texts | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)  # fmt: skip
requests = st.builds(
    Request,
    kind=st.sampled_from(["command", "query"]),
    session=texts,
    n=numbers,
    low=numbers,
    service=texts,
    resource=st.none() | texts,
    method=texts,
    params=st.dictionaries(texts, plain, max_size=4),
    remaining_ms=st.integers(-(2**31), 2**63 - 1),
    first_sent_ms=numbers,
    attempt=numbers,
    trace=texts,
)
replies = st.tuples(
    numbers, st.integers(0, 999), plain, st.none() | numbers | texts | st.binary(max_size=8)
)


# -- there and back -------------------------------------------------------------------------


@given(st.lists(requests, min_size=1, max_size=4))
def test_requests_come_back_as_they_were_however_many_one_message_holds(
    items: list[Request],
) -> None:
    assert decode_requests(b"".join(map(encode_request, items))) == items


@given(st.lists(replies, min_size=1, max_size=4))
def test_replies_come_back_as_they_were_however_many_one_message_holds(
    items: list[tuple[int, int, Any, int | str | bytes | None]],
) -> None:
    data = b"".join(
        encode_reply(n, status, encode_value(value), correlation)
        for n, status, value, correlation in items
    )
    assert decode_reply_values(data) == items


@given(plain)
def test_plain_values_come_back_as_they_were(value: Any) -> None:
    assert decode_value(encode_value(value)) == value


def test_the_envelope_is_the_array_that_the_protocol_names() -> None:
    assert msgpack.unpackb(encode_request(REQUEST)) == [
        1, "command", "1700000000000-abc", 7, 5, "account", "ACC-1", "deposit",
        {"amount": "10.5"}, 2000, 1, 2, "t",
    ]  # fmt: skip
    assert msgpack.unpackb(encode_reply(7, 200, encode_value("x"))) == [1, 7, 200, "x"]
    assert msgpack.unpackb(encode_reply(7, 422, encode_value("x"), 3)) == [1, 7, 422, "x", 3]


def test_values_of_types_that_msgpack_does_not_know_are_written_in_their_plain_form() -> None:
    @define
    class Order:
        price: Decimal
        at: datetime

    order = Order(Decimal("1.50"), datetime(2024, 1, 2, tzinfo=UTC))
    assert decode_value(encode_value({"order": order, "set": {2, 1}})) == {
        "order": {"price": "1.50", "at": "2024-01-02T00:00:00+00:00"},
        "set": [1, 2],
    }


def test_packers_of_different_threads_do_not_meet() -> None:
    wrong: list[object] = []

    def work(number: int) -> None:
        value = [number] * 200
        wrong.extend(1 for _ in range(500) if decode_value(encode_value(value)) != value)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# -- what cannot be written -------------------------------------------------------------------


def _nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [2**64, -(2**63) - 1, object(), "\ud800", _nested(5000), {"a": [object()]}, 1j, Decimal("NaN")],
)
def test_a_value_with_no_form_on_the_wire_is_refused_in_one_line(value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        encode_value(value)
    assert "\n" not in caught.value.message
    # The packer is as good as new.
    assert decode_value(encode_value([1])) == [1]


# -- what cannot be read ----------------------------------------------------------------------

DECODERS = [decode_requests, decode_reply_values, decode_value]


@given(st.binary(max_size=200))
@pytest.mark.parametrize("decode", DECODERS)
def test_any_bytes_decode_or_are_refused_in_one_line(decode: Any, data: bytes) -> None:
    _decodes_or_is_refused(decode, data)


def _decodes_or_is_refused(decode: Any, data: bytes) -> None:
    message = "refused in one line"
    try:
        decode(data)
    except ProtocolError as error:
        message = error.message
    assert message
    assert "\n" not in message


@given(requests, st.data())
def test_a_damaged_request_is_never_more_than_a_protocol_error(
    request: Request, data: st.DataObject
) -> None:
    encoded = bytearray(encode_request(request))
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] = data.draw(st.integers(0, 255))
    _decodes_or_is_refused(decode_requests, bytes(encoded))


@given(requests, st.data())
def test_a_request_that_is_cut_off_is_refused(request: Request, data: st.DataObject) -> None:
    encoded = encode_request(request)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(ProtocolError):
        decode_requests(encoded[:cut])
    with pytest.raises(ProtocolError):
        decode_requests(encoded + encoded[: max(cut, 1)])


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"\xc1", "not msgpack"),
        (b"\x91" * 5000, "too deep"),
        (b"\x94\x01", "cut off"),
        (b"\xdd\xff\xff\xff\xff", "cut off"),
        (b"\xdb\xff\xff\xff\xff", "cut off"),
    ],
)
def test_the_line_says_what_is_wrong_with_the_bytes(decode: Any, data: bytes, words: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(data)
    assert words in caught.value.message or "must be an array" in caught.value.message


@pytest.mark.parametrize(
    ("index", "value", "name"),
    [
        (0, 2, "version"), (0, True, "version"), (0, "1", "version"),
        (1, "delete", "kind"), (1, 1, "kind"), (1, [], "kind"),
        (2, 1, "session"), (2, None, "session"),
        (3, "1", "n"), (3, True, "n"), (3, -1, "n"), (3, 1.0, "n"),
        (4, None, "low"), (4, -1, "low"),
        (5, None, "service"), (5, b"x", "service"),
        (6, 1, "resource"),
        (7, None, "method"),
        (8, [], "params"), (8, None, "params"), (8, {1: 2}, "params"), (8, {"a": _nested(505)}, "params.a"),
        (9, "1", "remaining_ms"),
        (10, None, "first_sent_ms"),
        (11, "1", "attempt"),
        (12, None, "trace"),
    ],
)  # fmt: skip
def test_a_field_of_the_wrong_type_is_named(index: int, value: Any, name: str) -> None:
    fields = msgpack.unpackb(encode_request(REQUEST))
    fields[index] = value
    packer = msgpack.packb(fields)
    with pytest.raises(ProtocolError) as caught:
        decode_requests(packer)
    assert f"{name} " in caught.value.message


@pytest.mark.parametrize("length", [0, 1, 12, 14])
def test_an_array_of_another_length_is_no_request(length: int) -> None:
    fields = [*msgpack.unpackb(encode_request(REQUEST)), 0][:length]
    with pytest.raises(ProtocolError):
        decode_requests(msgpack.packb(fields))


@pytest.mark.parametrize(
    "fields",
    [
        [], [1], [1, 2, 3], [1, 2, 3, 4, 5, 6], [2, 2, 200, 4], [1, "2", 200, 4], [1, -1, 200, 4],
        [1, 2, "200", 4], [1, 2, True, 4], [1, 2, 200, 4, []], [1, 2, 200, 4, 1.5], {}, 7, "text",
    ],
)  # fmt: skip
def test_what_is_no_reply_is_refused(fields: Any) -> None:
    with pytest.raises(ProtocolError):
        decode_reply_values(msgpack.packb(fields))


def test_one_bad_request_spoils_the_message_it_came_in() -> None:
    bad = encode_request(evolve(REQUEST, kind="odd"))
    with pytest.raises(ProtocolError):
        decode_requests(encode_request(REQUEST) + bad)


# -- mail -----------------------------------------------------------------------------


def mail_request(**fields: Any) -> Request:
    known: dict[str, Any] = {"kind": "command", "session": "1-a", **fields}
    return Request(
        known["kind"], known["session"], 1, 1, "account", "ACC-1", "deposit", {"amount": "1"}, 0
    )


def test_mail_is_a_request_with_or_without_where_its_reply_goes() -> None:
    for reply_to in (None, ReplyTo("order", "O-1", "paid")):
        mail = Mail(mail_request(), reply_to)
        assert decode_mail(encode_mail(mail)) == mail
    assert decode_mail(encode_request(mail_request())) == Mail(mail_request())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", None),
        (encode_request(mail_request()) * 2, "one request, not 2"),
        (encode_request(mail_request(kind="query")), "only commands"),
        (encode_request(mail_request(session="")), "session must not be empty"),
        (
            bytes((encode_request(mail_request())[0] + 1,))
            + encode_request(mail_request())[1:]
            + encode_value(["order", "O-1"]),
            "reply_to must be an array of three texts",
        ),
        (encode_value([1, "command"]), "elements"),
    ],
)
def test_what_is_no_mail_is_told_so(data: bytes, message: str | None) -> None:
    with pytest.raises(ProtocolError, match=message):
        decode_mail(data)

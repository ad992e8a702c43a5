"""Where the errors of nats-py become ours, in one place."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import nats.errors as core
import nats.js.errors as js

from aegis.errors import (
    AegisError,
    ConfigurationError,
    Conflict,
    ConnectionClosed,
    Disconnected,
    InvalidRequest,
    NoResponders,
    NotFound,
    Overloaded,
    TooLarge,
    Unavailable,
)
from aegis.errors import ProtocolError as AegisProtocolError

__all__ = ["TRANSLATIONS", "translated", "translation"]

TRANSLATIONS: Final[dict[type[Exception], type[AegisError]]] = {
    core.Error: Unavailable,
    core.TimeoutError: Unavailable,
    core.NoRespondersError: NoResponders,
    core.StaleConnectionError: Disconnected,
    core.OutboundBufferLimitError: Disconnected,
    core.UnexpectedEOF: Disconnected,
    core.FlushTimeoutError: Unavailable,
    core.ConnectionClosedError: ConnectionClosed,
    core.SecureConnRequiredError: ConfigurationError,
    core.SecureConnWantedError: ConfigurationError,
    core.SecureConnFailedError: ConfigurationError,
    core.BadSubscriptionError: InvalidRequest,
    core.BadSubjectError: InvalidRequest,
    core.BadHeaderError: InvalidRequest,
    core.SlowConsumerError: Overloaded,
    core.BadTimeoutError: InvalidRequest,
    core.AuthorizationError: ConfigurationError,
    core.NoServersError: Unavailable,
    core.JsonParseError: AegisProtocolError,
    core.MaxPayloadError: TooLarge,
    core.DrainTimeoutError: Unavailable,
    core.ConnectionDrainingError: ConnectionClosed,
    core.ConnectionReconnectingError: Disconnected,
    core.InvalidUserCredentialsError: ConfigurationError,
    core.InvalidCallbackTypeError: InvalidRequest,
    core.ProtocolError: AegisProtocolError,
    core.ServerNotInPoolError: ConfigurationError,
    core.NotJSMessageError: AegisProtocolError,
    core.MsgAlreadyAckdError: AegisProtocolError,
    # nats-py's JetStream classes are not used here, but must not slip through.
    js.Error: Unavailable,
    js.APIError: Unavailable,
    js.ServiceUnavailableError: Unavailable,
    js.ServerError: Unavailable,
    js.NotFoundError: NotFound,
    js.BadRequestError: InvalidRequest,
    js.ConsumerInvalidResetError: InvalidRequest,
    js.NoStreamResponseError: NoResponders,
    js.TooManyStalledMsgsError: Overloaded,
    js.FetchTimeoutError: Unavailable,
    js.ConsumerSequenceMismatchError: Unavailable,
    js.BucketNotFoundError: NotFound,
    js.BadBucketError: InvalidRequest,
    js.KeyValueError: Unavailable,
    js.KeyDeletedError: NotFound,
    js.KeyNotFoundError: NotFound,
    js.KeyWrongLastSequenceError: Conflict,
    js.NoKeysError: NotFound,
    js.KeyHistoryTooLargeError: InvalidRequest,
    js.InvalidKeyError: InvalidRequest,
    js.InvalidBucketNameError: InvalidRequest,
    js.InvalidObjectNameError: InvalidRequest,
    js.BadObjectMetaError: AegisProtocolError,
    js.LinkIsABucketError: InvalidRequest,
    js.DigestMismatchError: AegisProtocolError,
    js.ObjectNotFoundError: NotFound,
    js.ObjectDeletedError: NotFound,
    js.ObjectAlreadyExists: Conflict,
    js.KeyValueLimitMarkerTTLNotSupportedError: ConfigurationError,
}
"""What each class of nats-py becomes; the nearest class named here decides."""


def translation(error: Exception) -> AegisError:
    """Return the error of ours that stands for ``error``."""
    text = str(error).removeprefix("nats: ") or type(error).__name__
    for cls in type(error).__mro__:
        ours = TRANSLATIONS.get(cls)
        if ours is not None:
            return ours(text)
    if isinstance(error, TimeoutError):
        return Unavailable("the server did not answer in time")
    if isinstance(error, OSError):
        return Disconnected(text)
    return Unavailable(text)


@contextmanager
def translated() -> Generator[None]:
    """Turn whatever nats-py or the socket raises inside into an `AegisError`."""
    try:
        yield
    except (AegisError, asyncio.CancelledError):
        raise
    except (core.Error, OSError) as error:
        raise translation(error) from error

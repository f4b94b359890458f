"""From bytes on the wire to a message that means only one thing.

The gate receives raw bytes, so size is judged before anything is decoded, and identity before
that. Protobuf lets a message say one thing twice (the last value wins), carry fields that we do not
know, and spell numbers in longer ways; none of that survives a second serialisation, so requests
whose length changes by it are refused (protobuf encoding specification, "Last One Wins").
"""

from __future__ import annotations

from google.protobuf.message import DecodeError, Message

from keyd.errors import InvalidRequest
from keyd.rpc.method import Method


def decode(method: Method, data: bytes) -> Message:
    """Parse one request of `method`.

    Raises: InvalidRequest (REQUEST_TOO_LARGE, REQUEST_UNDECODABLE, REQUEST_UNKNOWN_FIELD,
    REQUEST_AMBIGUOUS).
    """
    if len(data) > method.terms.max_bytes:
        raise InvalidRequest(
            "REQUEST_TOO_LARGE",
            f"a request of {method.policy_name} has at most {method.terms.max_bytes} bytes, this "
            f"one has {len(data)}",
        )
    message = method.request()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise InvalidRequest(
            "REQUEST_UNDECODABLE", f"the request is no {message.DESCRIPTOR.full_name} message"
        ) from error
    if method.strict:
        _check_unambiguous(message, len(data))
    return message


def _check_unambiguous(message: Message, received: int) -> None:
    parsed = message.ByteSize()
    message.DiscardUnknownFields()
    if message.ByteSize() != parsed:
        raise InvalidRequest(
            "REQUEST_UNKNOWN_FIELD",
            "the request has a field that this daemon does not know, so it could not do all that "
            "was asked; upgrade the daemon or use an older client",
        )
    if parsed != received:
        raise InvalidRequest(
            "REQUEST_AMBIGUOUS",
            "the request encodes a field twice or in a longer way than needed; set each field once",
        )

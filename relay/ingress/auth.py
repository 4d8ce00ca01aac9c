"""What AUTH says: PLAIN (RFC 4616) and LOGIN, decoded (RFC 4954 §4). **Pure.**"""

import base64
import binascii
from dataclasses import dataclass, field


class AuthError(ValueError):
    """The response cannot be understood. The text is a whole reply line."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A name and a password as the client gave them."""

    name: str
    password: str = field(repr=False)


def decode_response(line: bytes) -> bytes:
    """Decode a response; `=` is an empty initial response, `*` gives the exchange up."""
    if line == b"*":
        raise AuthError("501 5.7.0 Authentication cancelled")
    if line == b"=":
        return b""
    try:
        return base64.b64decode(line, validate=True)
    except binascii.Error:
        raise AuthError("501 5.5.2 Cannot decode base64") from None


def plain_credentials(response: bytes) -> Credentials:
    """`[authzid] NUL authcid NUL passwd`; nobody may act for another, so authzid is empty or the same."""
    parts = response.split(b"\0")
    if len(parts) != 3 or parts[0] not in (b"", parts[1]):
        raise AuthError("501 5.5.2 Malformed PLAIN response")
    return login_credentials(parts[1], parts[2])


def login_credentials(name: bytes, password: bytes) -> Credentials:
    try:
        return Credentials(name.decode("utf-8"), password.decode("utf-8"))
    except UnicodeDecodeError:
        raise AuthError("501 5.5.2 Name and password must be UTF-8") from None

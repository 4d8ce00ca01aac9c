"""AUTH as a lab MX takes it: PLAIN and LOGIN (RFC 4954, RFC 4616), with or without an initial response. **Pure.**"""

import base64
import binascii
from collections.abc import Mapping

_ACCEPTED = b"235 2.7.0 Welcome\r\n"
_REFUSED = b"535 5.7.8 Authentication credentials invalid\r\n"
_MALFORMED = b"501 5.5.2 Cannot decode that\r\n"
_GO_ON = b"334 \r\n"


class LoginExchange:
    """One AUTH command and what follows it. `user` is set once it has succeeded, `done` when nothing more follows."""

    def __init__(self, logins: Mapping[str, str]) -> None:
        self.user = ""
        self.done = False
        self._logins = logins
        self._mechanism = ""
        self._said: list[str] = []

    def begin(self, line: str) -> bytes:
        """Return the reply to the command itself."""
        _, _, arguments = line.partition(" ")
        mechanism, _, initial = arguments.partition(" ")
        self._mechanism = mechanism.upper()
        if self._mechanism not in ("PLAIN", "LOGIN"):
            self.done = True
            return b"504 5.5.4 No such mechanism\r\n"
        return self.go_on(initial) if initial else _GO_ON

    def go_on(self, line: str) -> bytes:
        """Return the reply to a response of the client's."""
        try:
            said = base64.b64decode(line, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            self.done = True
            return _MALFORMED
        self._said.append(said)
        if self._mechanism == "PLAIN":
            _, _, login = said.partition("\0")
            return self._judge(*login.partition("\0")[::2])
        return self._judge(*self._said) if len(self._said) == 2 else _GO_ON

    def _judge(self, user: str, password: str) -> bytes:
        self.done = True
        if self._logins.get(user) != password:
            return _REFUSED
        self.user = user
        return _ACCEPTED

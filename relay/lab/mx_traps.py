"""What a lab MX does in place of a handshake, once it has said 220 to STARTTLS."""

from typing import TYPE_CHECKING

from relay.lab.mx_behaviour import Handshake
from relay.lab.mx_replies import ScriptedConnection
from relay.lab.wire import Listener

if TYPE_CHECKING:
    from relay.lab.mx import LabMx

FATAL_ALERT = b"\x15\x03\x03\x00\x02\x02\x28"  # handshake_failure
TLS_HANDSHAKE = b"\x16"  # the first octet of a ClientHello
NOT_TLS = b"\x00\x00 this is not TLS\r\n"
SMALL_HELLO = 255  # octets of the record; some load balancers lost what was between 256 and 511


class TrappedConnection(ScriptedConnection):
    """A connection whose handshake may be a trap; `trap` is set while one waits for the client's first octets."""

    def __init__(self, listener: Listener, mx: "LabMx") -> None:
        super().__init__(listener, mx.behaviour.replies)
        self.trap: Handshake | None = None
        self._mx = mx

    def begin_handshake(self, handshake: Handshake) -> None:
        match handshake:
            case Handshake.COMPLETE:
                self.start_tls(self._mx.context)
            case Handshake.CLOSE:
                self.close()
            case trap:
                self.trap = trap

    def spring(self, trap: Handshake, data: bytes) -> None:
        """The client has sent something, most likely its ClientHello."""
        match trap:
            case Handshake.PLAINTEXT if data.startswith(TLS_HANDSHAKE):
                self.send(b"500 5.5.2 Unknown command\r\n")
            case Handshake.PLAINTEXT:
                self.trap = None
                self.on_data(data)
            case Handshake.SMALL if len(data) <= SMALL_HELLO:
                self.trap = None
                self.start_tls(self._mx.context)
                self.data_received(data)
            case Handshake.RESET | Handshake.SMALL:
                self.reset()
            case Handshake.ALERT:
                self.send(FATAL_ALERT)
                self.close()
            case Handshake.GARBAGE:
                self.send(NOT_TLS)
                self.close()
            case _:
                self.deaf = True

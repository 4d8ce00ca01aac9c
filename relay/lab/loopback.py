"""Sockets on 127.0.0.0/8: one common port on many addresses, as real MX hosts share port 25.

Limits: every address of 127.0.0.0/8 is local on Linux; other systems have 127.0.0.1 alone.
"""

import ipaddress
import socket

NAME_SERVER = "127.0.0.1"
DEAD = "127.0.0.2"  # nothing ever listens here: connections are refused
POLICY_HOST = "127.0.0.3"
FIRST_MX = ipaddress.IPv4Address("127.0.0.4")


class PortReservation:
    """Keeps a port for one lab by holding it bound, but not listening, at the dead address.

    Every lab takes its ports there, so that no two of them share one. Nothing connects *from* an address other
    than 127.0.0.1, so the same port is free at all the others.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.bind((DEAD, 0))
        self.port: int = self._socket.getsockname()[1]

    def close(self) -> None:
        self._socket.close()

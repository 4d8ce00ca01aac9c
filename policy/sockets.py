"""TCP to an address that is known already: no name is looked up, and nothing is left open."""

import asyncio
import socket
from typing import Any

SocketAddress = tuple[Any, ...]
"""Address and port, for IPv6 also flow and scope, as the module `socket` has them."""


async def connected(
    family: socket.AddressFamily, address: SocketAddress, source: SocketAddress | None = None
) -> socket.socket:
    """Return a socket that is connected, from `source` where one is given. Raises OSError.

    Without a limit of its own; whatever ends it early, a limit of the caller's too, closes the socket.
    """
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if source is not None:
            sock.bind(source)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock

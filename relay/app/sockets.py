"""Listening sockets of several processes: one for each process and address, among which the system spreads clients.

They are bound by the parent, which keeps them open: clients that wait in the backlog of a process that has died are
taken by its successor.
"""

import socket
from collections.abc import Sequence
from contextlib import ExitStack

from relay.config.quantities import HostPort


def bind_for(processes: int, addresses: Sequence[HostPort]) -> list[tuple[socket.socket, ...]]:
    """Return the sockets of each process, in the order of the addresses. Raises OSError, and then none is bound."""
    with ExitStack() as opened:
        rows = [[opened.enter_context(one) for one in _bind_all(address, processes)] for address in addresses]
        opened.pop_all()
    return list(zip(*rows, strict=True))


def _bind_all(address: HostPort, count: int) -> list[socket.socket]:
    """Bind so many sockets to one address, also where the system chooses the port."""
    # Sockets of this kind share an address with each other, and so would with those of another relay that is there
    # already: one of the common kind says so.
    _bind(address, shared=False).close()
    first = _bind(address, shared=True)
    with ExitStack() as opened:
        sockets = [opened.enter_context(first)]
        at = HostPort(address.host, first.getsockname()[1])
        sockets += [opened.enter_context(_bind(at, shared=True)) for _ in range(count - 1)]
        opened.pop_all()
    return sockets


def _bind(address: HostPort, *, shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((address.host, address.port))
    except OSError as error:
        made.close()
        raise OSError(error.errno, f"{error.strerror} while binding {address.host, address.port}") from error
    return made

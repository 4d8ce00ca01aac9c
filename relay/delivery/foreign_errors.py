"""What the operating system and aiosmtplib raise about a connection, as LinkError. A fault of ours is told as one."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from aiosmtplib import SMTPException

from relay.delivery.protocol import LinkError, broken_off
from relay.queue.attempt import FailureKind

_OUR_OWN = frozenset({errno.EADDRNOTAVAIL, errno.EADDRINUSE, errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EPERM})


@contextmanager
def translated() -> Iterator[None]:
    """Raise LinkError for what they raise in here, with their error as its cause."""
    try:
        yield
    except TimeoutError as error:
        raise LinkError(FailureKind.TIMEOUT, "the connection could not be made in time") from error
    except ConnectionRefusedError as error:
        raise LinkError(FailureKind.CONNECTION_REFUSED, "the host refused the connection") from error
    except ConnectionError as error:
        raise broken_off() from error
    except OSError as error:
        kind = FailureKind.INTERNAL if error.errno in _OUR_OWN else FailureKind.CONNECTION_REFUSED
        detail = os.strerror(error.errno) if error.errno else str(error)
        raise LinkError(kind, f"no connection: {detail}") from error
    except (SMTPException, ValueError, TypeError) as error:
        raise LinkError(FailureKind.INTERNAL, f"no connection: {error}") from error

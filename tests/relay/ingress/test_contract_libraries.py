"""The private names that the ingress relies on, checked per Python version and release of aiosmtpd."""

import asyncio
import inspect
from importlib.metadata import version

import aiosmtpd.smtp
import pytest

from relay.ingress.connection import Connection


@pytest.mark.rfc("smug-a")
def test_aiosmtpd_has_its_security_fixes() -> None:
    """1.4.5 ended smuggling (CVE-2024-27305), 1.4.6 cleared the buffer at STARTTLS (CVE-2024-34083)."""
    assert tuple(int(part) for part in version("aiosmtpd").split(".")[:3]) >= (1, 4, 6)


async def test_stream_reader_has_the_names_that_the_bulk_reader_uses() -> None:
    reader = asyncio.StreamReader()
    assert isinstance(reader._buffer, bytearray)  # type: ignore[attr-defined]
    assert reader._eof is False  # type: ignore[attr-defined]
    assert reader._transport is None  # type: ignore[attr-defined]
    assert reader._waiter is None  # type: ignore[attr-defined]
    assert inspect.iscoroutinefunction(reader._wait_for_data)  # type: ignore[attr-defined]
    assert list(inspect.signature(reader._wait_for_data).parameters) == ["func_name"]  # type: ignore[attr-defined]
    assert callable(reader._maybe_resume_transport)  # type: ignore[attr-defined]


async def test_stream_reader_wakes_with_the_exception_that_is_set() -> None:
    reader = asyncio.StreamReader()
    waiting = asyncio.create_task(reader._wait_for_data("test"))  # type: ignore[attr-defined]
    await asyncio.sleep(0)
    reader.set_exception(KeyError("x"))
    with pytest.raises(KeyError):
        await waiting


async def test_protocol_has_the_names_that_the_connection_uses() -> None:
    protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader())
    for name in ("_paused", "_transport", "_over_ssl", "_stream_reader_wr"):
        assert name in vars(protocol)
    assert inspect.iscoroutinefunction(protocol._drain_helper)  # type: ignore[attr-defined]


def test_aiosmtpd_methods_that_still_run_are_known() -> None:
    """Of aiosmtpd's protocol only these are not replaced and may be called; the connection sets what they need."""
    assert issubclass(Connection, aiosmtpd.smtp.SMTP)
    called_by_asyncio = {"connection_made", "connection_lost", "eof_received", "_handle_client"}
    assert called_by_asyncio <= set(vars(Connection))
    assert "data_received" not in vars(aiosmtpd.smtp.SMTP)
    assert "pause_writing" not in vars(aiosmtpd.smtp.SMTP)
    assert 'getattr(self, "_closed", None)' in inspect.getsource(aiosmtpd.smtp.SMTP.__del__)

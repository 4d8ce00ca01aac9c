"""The signature of a report as OpenDKIM verifies it, with the key record that we tell operators to publish."""

import asyncio
import os
from pathlib import Path
from typing import cast

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from dns_server import Zone
from real_servers import program
from tls_report_makers import NOW, report

from policy.tlsrpt import MailEndpoint
from relay.dkim import DkimSigner
from relay.reports.tlsrpt_mail import SIGNED_FIELDS, build_mail

pytestmark = pytest.mark.real

_NAME_SERVER = "127.0.0.153"
_LIMIT = 20.0


class _Answers(asyncio.DatagramProtocol):
    def __init__(self, zone: Zone) -> None:
        self._zone = zone
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = self._zone.answer(data, "udp")
        assert self._transport is not None
        if answer is not None:
            self._transport.sendto(answer, addr)


async def opendkim(message: bytes, directory: Path) -> tuple[int, str]:
    """Verify in a mount namespace whose resolv.conf names our name server; nothing of the machine's is changed."""
    resolv = directory / "resolv.conf"
    resolv.write_text(f"nameserver {_NAME_SERVER}\n")
    script = f"mount --bind {resolv} /etc/resolv.conf && exec {program('opendkim-testmsg')} -t {directory}"
    process = await asyncio.create_subprocess_exec(
        program("unshare"), "-m", "sh", "-c", script, stdin=-1, stdout=-1, stderr=-1
    )
    async with asyncio.timeout(_LIMIT):
        _, said = await process.communicate(message)
    assert process.returncode is not None
    return process.returncode, said.decode()


@pytest.mark.rfc("8460-3-ae", "8460-3-ai")
@pytest.mark.skipif(os.geteuid() != 0, reason="port 53 and a mount namespace need root")
async def test_opendkim_accepts_the_signature_and_the_key_record(tmp_path: Path) -> None:
    program("opendkim-testmsg")
    key = rsa.generate_private_key(65537, 2048)
    key_file = tmp_path / "key.pem"
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    signer = DkimSigner.load(domain="company-x.example", selector="tlsrpt", key_file=key_file)
    zone = Zone()
    pieces = (signer.record[at : at + 255] for at in range(0, len(signer.record), 255))
    zone.add(signer.record_name, "TXT", " ".join(f'"{piece}"' for piece in pieces))
    endpoint = MailEndpoint("t@x.test", "x.test")
    message = signer.sign(build_mail(report(), endpoint, 0, NOW), SIGNED_FIELDS)
    changed = message.replace(b"TLS-Report-Domain: company-y", b"TLS-Report-Domain: company-z")
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Answers(zone), local_addr=(_NAME_SERVER, 53))
    try:
        assert await opendkim(message, tmp_path) == (0, "")
        status, said = await opendkim(changed, tmp_path)
    finally:
        transport.close()
    assert zone.count(signer.record_name, "TXT") >= 1
    assert status != 0
    assert "Bad signature" in said

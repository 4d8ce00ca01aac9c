"""The lab's policy hosts, asked by a client made by hand."""

import asyncio
import ssl
from typing import Self

import pytest

from relay.lab.ca import CertificateKind
from relay.lab.gate import Gate
from relay.lab.internet import Lab
from relay.lab.loopback import POLICY_HOST
from relay.lab.policy_host import WELL_KNOWN, PolicySite, SiteFault

BODY = b"version: STSv1\r\nmode: enforce\r\nmx: mx.shop.test\r\nmax_age: 86400\r\n"


class Client:
    """One connection to a policy host."""

    def __init__(self, lab: Lab, context: ssl.SSLContext, host: str = "mta-sts.shop.test") -> None:
        self._port, self._context, self._host = lab.policy_port, context, host

    async def __aenter__(self) -> Self:
        async with asyncio.timeout(5):
            self.reader, self.writer = await asyncio.open_connection(
                POLICY_HOST, self._port, ssl=self._context, server_hostname=self._host
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()
        await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)

    def ask(self, path: str = WELL_KNOWN, method: str = "GET") -> None:
        self.writer.write(f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\nAccept: text/plain\r\n\r\n".encode())

    async def everything(self) -> tuple[str, dict[str, str], bytes]:
        """Return status line, headers and body."""
        async with asyncio.timeout(5):
            head, _, body = (await self.reader.read()).partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        return status, {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}, body


async def fetch(
    lab: Lab, context: ssl.SSLContext, path: str = WELL_KNOWN, method: str = "GET", host: str = "mta-sts.shop.test"
) -> tuple[str, dict[str, str], bytes]:
    async with Client(lab, context, host) as client:
        client.ask(path, method)
        return await client.everything()


async def publish(lab: Lab, site: PolicySite) -> None:
    await lab.domain("shop.test", policy=site)


async def test_a_good_site(lab: Lab, strict: ssl.SSLContext) -> None:
    await publish(lab, PolicySite(mx=["mx.shop.test"]))
    status, headers, body = await fetch(lab, strict)
    assert status == "HTTP/1.1 200 OK"
    assert headers == {"connection": "close", "content-type": "text/plain", "content-length": str(len(BODY))}
    assert body == BODY
    (request,) = lab.policy_hosts.requests
    assert (request.sni, request.host, request.method, request.path) == (
        "mta-sts.shop.test",
        "mta-sts.shop.test",
        "GET",
        WELL_KNOWN,
    )
    assert lab.policy_hosts.handshakes == ["mta-sts.shop.test"]


async def test_each_name_has_its_own_certificate_and_site(lab: Lab, strict: ssl.SSLContext) -> None:
    for name, mode in (("a.test", "testing"), ("b.test", "none")):
        await lab.domain(name, policy=PolicySite(mode=mode, mx=["mx.a.test"], max_age=5))
    assert b"mode: testing" in (await fetch(lab, strict, host="mta-sts.a.test"))[2]
    assert b"mode: none" in (await fetch(lab, strict, host="mta-sts.b.test"))[2]


@pytest.mark.parametrize(
    ("site", "status", "header"),
    [
        (PolicySite(status=404, body=BODY), "HTTP/1.1 404 Not Found", ("content-type", "text/plain")),
        (PolicySite(status=799, body=BODY), "HTTP/1.1 799 Unknown", ("content-type", "text/plain")),
        (PolicySite(body=BODY, content_type="text/html"), "HTTP/1.1 200 OK", ("content-type", "text/html")),
        (PolicySite(status=302, body=BODY, location="https://x.test"), "HTTP/1.1 302 Found", ("location", "https://x.test")),
        (PolicySite(body=BODY, headers=(("X-Odd", "1"),)), "HTTP/1.1 200 OK", ("x-odd", "1")),
    ],
    ids=["404", "799", "html", "redirect", "header"],
)  # fmt: skip
async def test_sites_that_answer_wrongly(
    lab: Lab, strict: ssl.SSLContext, site: PolicySite, status: str, header: tuple[str, str]
) -> None:
    await publish(lab, site)
    answer = await fetch(lab, strict)
    assert answer[0] == status
    assert header in answer[1].items()
    assert answer[2] == BODY


async def test_no_content_type(lab: Lab, strict: ssl.SSLContext) -> None:
    await publish(lab, PolicySite(body=BODY, content_type=None))
    assert "content-type" not in (await fetch(lab, strict))[1]


@pytest.mark.parametrize(("path", "method"), [("/", "GET"), (WELL_KNOWN, "POST"), (f"{WELL_KNOWN}?x", "GET")])
async def test_nothing_else_is_served(lab: Lab, strict: ssl.SSLContext, path: str, method: str) -> None:
    await publish(lab, PolicySite(body=BODY))
    status, _, body = await fetch(lab, strict, path, method)
    assert status == "HTTP/1.1 404 Not Found"
    assert body != BODY


@pytest.mark.parametrize(
    "kind",
    [
        CertificateKind.EXPIRED,
        CertificateKind.WRONG_NAME,
        CertificateKind.SELF_SIGNED,
        CertificateKind.UNKNOWN_CA,
        CertificateKind.CN_ONLY,
    ],
    ids=lambda kind: kind.name,
)
async def test_a_bad_certificate_is_refused_and_written_down(
    lab: Lab, strict: ssl.SSLContext, kind: CertificateKind
) -> None:
    await publish(lab, PolicySite(body=BODY, certificate=kind))
    with pytest.raises(ssl.SSLCertVerificationError):
        await fetch(lab, strict)
    ((name, reason),) = await lab.policy_hosts.refusals.wait_for(1)
    assert name == "mta-sts.shop.test"
    assert reason
    assert lab.policy_hosts.requests == []


async def test_a_bad_certificate_may_be_taken(lab: Lab, lenient: ssl.SSLContext) -> None:
    await publish(lab, PolicySite(body=BODY, certificate=CertificateKind.EXPIRED))
    assert (await fetch(lab, lenient))[2] == BODY


async def test_a_certificate_for_the_domain_alone(lab: Lab, strict: ssl.SSLContext) -> None:
    await publish(lab, PolicySite(body=BODY, certificate_names=("shop.test",)))
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        await fetch(lab, strict)


async def test_a_withdrawn_site_is_nobody(lab: Lab, strict: ssl.SSLContext, lenient: ssl.SSLContext) -> None:
    await publish(lab, PolicySite(body=BODY))
    lab.policy_hosts.withdraw("shop.test")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        await fetch(lab, strict)
    assert (await fetch(lab, lenient))[0] == "HTTP/1.1 404 Not Found"


async def test_down(lab: Lab, strict: ssl.SSLContext) -> None:
    await publish(lab, PolicySite(fault=SiteFault.DOWN))
    with pytest.raises(OSError, match="reset"):
        await fetch(lab, strict)
    assert lab.policy_hosts.refusals == [("mta-sts.shop.test", "the policy host is down")]


async def test_a_domain_whose_policy_host_is_down_points_at_a_dead_address(lab: Lab) -> None:
    await publish(lab, PolicySite())
    lab.domains["shop.test"].policy_host_down()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.2", lab.policy_port)


async def test_hang_in_tls(lab: Lab, strict: ssl.SSLContext) -> None:
    await publish(lab, PolicySite(fault=SiteFault.HANG_IN_TLS))
    fetching = asyncio.create_task(fetch(lab, strict))
    await publish(lab, PolicySite(fault=SiteFault.HANG_IN_TLS))
    await lab.domain("good.test", policy=PolicySite(body=BODY))
    assert (await fetch(lab, strict, host="mta-sts.good.test"))[2] == BODY
    assert not fetching.done()
    fetching.cancel()
    await asyncio.gather(fetching, return_exceptions=True)


async def test_hang(lab: Lab, strict: ssl.SSLContext) -> None:
    await publish(lab, PolicySite(fault=SiteFault.HANG))
    async with Client(lab, strict) as client:
        client.ask()
        await lab.policy_hosts.requests.wait_for(1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.reader.read(1)


async def test_an_answer_is_held_at_a_gate(lab: Lab, strict: ssl.SSLContext) -> None:
    gate = Gate()
    await publish(lab, PolicySite(body=BODY, gate=gate))
    fetching = asyncio.create_task(fetch(lab, strict))
    assert await gate.arrivals.wait_for(1) == ["mta-sts.shop.test"]
    assert not fetching.done()
    gate.open()
    assert (await fetching)[2] == BODY


async def test_drip_sends_byte_by_byte(lab: Lab, strict: ssl.SSLContext) -> None:
    await publish(lab, PolicySite(body=BODY, fault=SiteFault.DRIP, drip_interval=0.001))
    async with Client(lab, strict) as client:
        client.ask()
        async with asyncio.timeout(5):
            assert await client.reader.read(100) == b"H"
            rest = await client.reader.readuntil(b"max_age: 86400\r\n")
    assert rest.startswith(b"TTP/1.1 200 OK\r\n")


async def test_an_endless_body(lab: Lab, strict: ssl.SSLContext) -> None:
    await publish(lab, PolicySite(body=BODY, fault=SiteFault.ENDLESS))
    async with Client(lab, strict) as client:
        client.ask()
        async with asyncio.timeout(5):
            head = await client.reader.readuntil(b"\r\n\r\n")
            assert b"content-length" not in head.lower()
            assert len(await client.reader.readexactly(4 * 1024 * 1024)) == 4 * 1024 * 1024
            # The lab waits while we do not read, and is not kept from anything else.
            assert (await fetch(lab, strict, path="/"))[0] == "HTTP/1.1 404 Not Found"


async def test_a_body_cut_short(lab: Lab, strict: ssl.SSLContext) -> None:
    await publish(lab, PolicySite(body=BODY, fault=SiteFault.CUT))
    _, headers, body = await fetch(lab, strict)
    assert body == BODY
    assert int(headers["content-length"]) > len(body)


async def test_garbage(lab: Lab, strict: ssl.SSLContext) -> None:
    await publish(lab, PolicySite(body=BODY, fault=SiteFault.GARBAGE))
    assert not (await fetch(lab, strict))[0].startswith("HTTP/")


async def test_a_request_without_end_is_cut_off(lab: Lab, strict: ssl.SSLContext) -> None:
    await publish(lab, PolicySite(body=BODY))
    async with Client(lab, strict) as client:
        client.writer.write(b"x" * 100_000)
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(5):
                await client.reader.read()


async def test_a_request_in_pieces(lab: Lab, strict: ssl.SSLContext) -> None:
    await publish(lab, PolicySite(body=BODY))
    async with Client(lab, strict) as client:
        for piece in (b"GET /.well-known/mta", b"-sts.txt HTTP/1.1\r\nHost: x\r", b"\n\r\n"):
            client.writer.write(piece)
            await client.writer.drain()
            await asyncio.sleep(0)
        assert (await client.everything())[2] == BODY

"""The POST of a report against a real TLS server on loopback that does as a test says (RFC 8460 §5.4)."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from certs import CertificateAuthority
from https_server import Handler, policy_host, raw, response
from policy_fakes import HOUR, FakeResolver

from policy.answers import Found
from policy.report_post import HttpsReportPoster, Posted

HOST = "r.test"
BODY = b"\x1f\x8b" + b"report" * 1000


class Bench:
    """An endpoint named r.test, and posters that reach it by a fake DNS."""

    def __init__(self, folder: Path) -> None:
        ca = CertificateAuthority()
        self.folder = folder
        self.ca_file = str(ca.write(folder / "ca.pem"))
        self.good = ca.issue([HOST])
        self.stranger = CertificateAuthority("Stranger").issue([HOST])
        self.resolver = FakeResolver()
        self.resolver.address_answers[HOST] = Found(records=(ip_address("127.0.0.1"),), canonical_name=HOST, ttl=HOUR)
        self.posters: list[HttpsReportPoster] = []

    def context(self, *, trusted: bool = True) -> ssl.SSLContext:
        return (self.good if trusted else self.stranger).server_context(self.folder / "server.pem")

    def poster(self, *, timeout: float = 5, allow_private: bool = True) -> HttpsReportPoster:
        poster = HttpsReportPoster(
            resolver=self.resolver,
            ca_file=self.ca_file,
            timeout=timedelta(seconds=timeout),
            allow_private_addresses=allow_private,
        )
        self.posters.append(poster)
        return poster

    async def post(self, respond: Handler, *, timeout: float = 5) -> tuple[Posted, str]:
        async with policy_host(respond, self.context()) as host:
            return await self.poster(timeout=timeout).post(f"https://{HOST}:{host.port}/v1?a=b", BODY)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    for poster in bench.posters:
        await poster.aclose()


@pytest.mark.rfc("8460-3-aj", "8460-5.4-a", "8460-5.4-b", "8460-5.2-a")
async def test_the_report_itself_is_posted_to_the_very_uri(bench: Bench) -> None:
    got: list[bytes] = []

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.readexactly(len(BODY)))
        writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")

    async with policy_host(respond, bench.context()) as host:
        poster = bench.poster()
        assert await poster.post(f"https://{HOST}:{host.port}/v1/x?a=b%2C", BODY) == (
            Posted.ACCEPTED,
            "HTTP status 201",
        )
    assert got == [BODY]
    (head,) = host.requests
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /v1/x?a=b%2C HTTP/1.1"
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    assert fields["content-type"] == "application/tlsrpt+gzip"
    assert fields["host"] == f"{HOST}:{host.port}"
    assert fields["content-length"] == str(len(BODY))
    assert not {"content-encoding", "cookie", "authorization", "proxy-authorization"} & set(fields)
    assert host.server_names == [HOST]


@pytest.mark.rfc("8460-5.4-c")
@pytest.mark.parametrize(
    ("status", "posted"),
    [
        ("200 OK", Posted.ACCEPTED),
        ("201 Created", Posted.ACCEPTED),
        ("202 Accepted", Posted.ACCEPTED),
        ("204 No Content", Posted.ACCEPTED),
        ("400 Bad Request", Posted.REFUSED),
        ("404 Not Found", Posted.REFUSED),
        ("410 Gone", Posted.REFUSED),
        ("408 Request Timeout", Posted.FAILED),
        ("429 Too Many Requests", Posted.FAILED),
        ("500 Internal Server Error", Posted.FAILED),
        ("503 Service Unavailable", Posted.FAILED),
    ],
)
async def test_what_the_status_means(bench: Bench, status: str, posted: Posted) -> None:
    assert await bench.post(response(b"", status=status)) == (posted, f"HTTP status {status[:3]}")


@pytest.mark.rfc("8460-3-al")
@pytest.mark.parametrize("where", ["http://127.0.0.1/", "https://r.test/other", "file:///etc/passwd"])
async def test_a_redirect_is_not_followed(bench: Bench, where: str) -> None:
    async with policy_host(response(b"", status="307 Moved", headers=[f"Location: {where}"]), bench.context()) as host:
        posted = await bench.poster().post(f"https://{HOST}:{host.port}/", BODY)
    assert posted == (Posted.REFUSED, "HTTP status 307")
    assert len(host.requests) == 1


@pytest.mark.rfc("8460-3-al")
async def test_a_private_address_is_not_connected_to(bench: Bench) -> None:
    async with policy_host(response(b""), bench.context()) as host:
        posted, reason = await bench.poster(allow_private=False).post(f"https://{HOST}:{host.port}/", BODY)
    assert posted is Posted.FAILED
    assert "not public (127.0.0.1)" in reason
    assert host.connections == 0


@pytest.mark.rfc("8460-3-al")
async def test_an_endpoint_that_hangs_is_left(bench: Bench) -> None:
    async def hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    assert await bench.post(hang, timeout=0.3) == (Posted.FAILED, "no answer within 0.3 s")


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"\x00\xff garbage\r\n\r\n",
        b"HTTP/1.1 200",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad header\x00\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ],
)
async def test_an_endpoint_that_answers_garbage_has_failed(bench: Bench, octets: bytes) -> None:
    posted, reason = await bench.post(raw(octets))
    assert posted is Posted.FAILED
    assert reason.isascii()
    assert reason.isprintable()


async def test_the_body_of_the_answer_is_not_read(bench: Bench) -> None:
    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n" + b"x" * 1000)
        await writer.drain()

    assert await bench.post(endless) == (Posted.ACCEPTED, "HTTP status 200")


@pytest.mark.rfc("8460-3-ak", "8460-7-c")
async def test_an_endpoint_with_a_bad_certificate_gets_nothing(bench: Bench) -> None:
    async with policy_host(response(b""), bench.context(trusted=False)) as host:
        posted, reason = await bench.poster().post(f"https://{HOST}:{host.port}/", BODY)
    assert posted is Posted.FAILED
    assert "certificate" in reason
    assert host.requests == []


async def test_a_name_without_an_address_has_failed(bench: Bench) -> None:
    assert await bench.poster().post("https://gone.test/", BODY) == (
        Posted.FAILED,
        "the host has no address (nxdomain)",
    )

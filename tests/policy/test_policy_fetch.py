"""The HTTPS fetch against a real TLS server on loopback (RFC 8461 §3.3)."""

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
from certs import CertificateAuthority, Issued
from cryptography.x509.oid import ExtendedKeyUsageOID
from https_server import Handler, PolicyHost, policy_host, raw, response
from policy_fakes import HOUR, NXDOMAIN, SERVFAIL, FakeResolver

from policy.answers import Answer, Found
from policy.fetch import MAX_BODY, HttpsPolicyFetcher
from policy.names import IPAddress
from policy.requirement import ResultType
from policy.store import FetchFailedError

HOST = "mta-sts.x.test"
POLICY = b"version: STSv1\nmode: enforce\nmx: mx.x.test\nmax_age: 86400\n"
FETCH_ERROR = ResultType.STS_POLICY_FETCH_ERROR
WEBPKI_INVALID = ResultType.STS_WEBPKI_INVALID


@pytest.fixture(scope="module")
def ca() -> CertificateAuthority:
    return CertificateAuthority()


@pytest.fixture(scope="module")
def good(ca: CertificateAuthority) -> Issued:
    return ca.issue([HOST])


def addresses(*texts: str) -> Answer[IPAddress]:
    return Found(records=tuple(ip_address(text) for text in texts), canonical_name=HOST, ttl=HOUR)


class Bench:
    """Policy hosts to start, and fetchers that reach them by a fake DNS."""

    def __init__(self, ca: CertificateAuthority, folder: Path) -> None:
        self.folder = folder
        self.ca_file = str(ca.write(folder / "ca.pem"))
        self.resolver = FakeResolver()
        self.resolver.address_answers[HOST] = addresses("127.0.0.1")
        self.fetchers: list[HttpsPolicyFetcher] = []

    def context(self, issued: Issued) -> ssl.SSLContext:
        return issued.server_context(self.folder / "server.pem")

    def fetcher(
        self, port: int, *, timeout: float = 5, allow_private: bool = True, ca_file: str | None = None, most: int = 10
    ) -> HttpsPolicyFetcher:
        fetcher = HttpsPolicyFetcher(
            resolver=self.resolver,
            ca_file=self.ca_file if ca_file is None else ca_file,
            timeout=timedelta(seconds=timeout),
            policy_port=port,
            allow_private_addresses=allow_private,
            max_fetches=most,
        )
        self.fetchers.append(fetcher)
        return fetcher

    async def failure(
        self, issued: Issued, respond: Handler, *, timeout: float = 5
    ) -> tuple[FetchFailedError, PolicyHost]:
        """Serve, fetch, and return how that failed."""
        async with policy_host(respond, self.context(issued)) as host:
            return await failed(self.fetcher(host.port, timeout=timeout).fetch("x.test")), host


async def failed(fetch: Awaitable[bytes]) -> FetchFailedError:
    with pytest.raises(FetchFailedError) as caught:
        await fetch
    assert caught.value.detail.isascii()
    assert caught.value.detail.isprintable()
    return caught.value


@pytest.fixture
async def bench(ca: CertificateAuthority, tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(ca, tmp_path)
    yield bench
    for fetcher in bench.fetchers:
        await fetcher.aclose()


@pytest.mark.rfc(
    "8461-3.2-a", "8461-3.3-a", "8461-3.3-b", "8461-3.3-d", "8461-3.3-j", "8461-3.3-k", "8461-7.1-a", "8461-1.1-b",
    "8461-10.1-a",
)  # fmt: skip
async def test_the_policy_is_fetched_by_a_plain_get(bench: Bench, good: Issued) -> None:
    async with policy_host(response(POLICY), bench.context(good)) as host:
        assert await bench.fetcher(host.port).fetch("x.test") == POLICY
    assert host.server_names == [HOST]
    head = host.requests[0].decode().lower().split("\r\n")
    assert head[0] == "get /.well-known/mta-sts.txt http/1.1"
    assert f"host: {HOST}" in head
    assert "accept-encoding: identity" in head
    names = {line.partition(":")[0] for line in head[1:] if line}
    assert names == {"host", "accept", "accept-encoding", "user-agent", "connection"}
    assert bench.resolver.asked == [("ADDRESS", HOST)]


@pytest.mark.rfc("8461-3.3-j")
async def test_nothing_is_cached_and_no_cookie_is_kept(bench: Bench, good: Issued) -> None:
    headers = ("Content-Type: text/plain", "Cache-Control: max-age=99999", 'ETag: "1"', "Set-Cookie: a=b; Path=/")
    async with policy_host(response(POLICY, headers=headers), bench.context(good)) as host:
        fetcher = bench.fetcher(host.port)
        await fetcher.fetch("x.test")
        host.respond = response(POLICY + b"a: b\n", headers=headers)
        assert await fetcher.fetch("x.test") == POLICY + b"a: b\n"
    assert host.requests[0] == host.requests[1]
    assert host.connections == 2


@pytest.mark.rfc("8461-3.2-b", "8461-3.2-c")
@pytest.mark.parametrize(
    "media_type",
    ["text/plain", "TEXT/Plain", "text/plain; charset=UTF-8; x=y", "text/plain;charset=iso-8859-1", "text/plain ;"],
)
async def test_media_types_that_are_plain_text(bench: Bench, good: Issued, media_type: str) -> None:
    async with policy_host(response(POLICY, headers=[f"Content-Type: {media_type}"]), bench.context(good)) as host:
        assert await bench.fetcher(host.port).fetch("x.test") == POLICY


@pytest.mark.rfc("8461-3.2-b", "8461-3.2-d")
@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        (["Content-Type: text/html"], "served the media type text/html, not text/plain"),
        (["Content-Type: application/octet-stream"], "served the media type application/octet-stream, not text/plain"),
        (["Content-Type: text/plain+xml"], "served the media type text/plain+xml, not text/plain"),
        (["Content-Type: text/plainx"], "served the media type text/plainx, not text/plain"),
        (["Content-Type: text/plain, text/html"], "served the media type text/plain, text/html, not text/plain"),
        (["Content-Type:"], "served the media type , not text/plain"),
        ([], "sent no Content-Type where one is needed"),
        (["Content-Type: text/plain", "Content-Type: text/plain"], "sent 2 Content-Type where one is needed"),
        (
            ["Content-Type: text/plain", "Content-Encoding: br"],
            "used the Content-Encoding br, which was not asked for",
        ),
    ],
)
async def test_heads_that_are_not_of_a_policy(bench: Bench, good: Issued, headers: list[str], reason: str) -> None:
    failure, _ = await bench.failure(good, response(POLICY, headers=headers))
    assert failure.result_type is FETCH_ERROR
    assert failure.detail == f"{HOST} {reason}"


@pytest.mark.rfc("8461-3.3-h")
@pytest.mark.parametrize(
    "status",
    ["201 Created", "202 A", "203 N", "204 No Content", "206 Partial", "304 Not Modified", "400 B", "401 U", "403 F",
     "404 Not Found", "410 Gone", "429 T", "500 E", "503 U", "299 X", "599 X"],
)  # fmt: skip
async def test_only_status_200_makes_a_policy(bench: Bench, good: Issued, status: str) -> None:
    failure, _ = await bench.failure(good, response(POLICY, status=status))
    assert failure.result_type is FETCH_ERROR
    assert failure.detail == f"{HOST} answered with HTTP status {status[:3]}, not 200"


@pytest.mark.rfc("8461-3.3-i")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("target", ["/policy.txt", f"https://{HOST}/other", f"http://{HOST}/", "https://127.0.0.1/"])
async def test_l9_redirects_are_not_followed(bench: Bench, good: Issued, status: int, target: str) -> None:
    headers = ["Content-Type: text/plain", f"Location: {target}"]
    failure, host = await bench.failure(good, response(POLICY, status=f"{status} Moved", headers=headers))
    assert failure.detail == f"{HOST} answered with HTTP status {status}, not 200 (redirect to {target}, not followed)"
    assert len(host.requests) == 1


@pytest.mark.rfc("8461-3.3-p")
async def test_a_body_of_64_kib_is_taken_and_one_octet_more_is_not(bench: Bench, good: Issued) -> None:
    async with policy_host(response(b"a" * MAX_BODY), bench.context(good)) as host:
        fetcher = bench.fetcher(host.port)
        assert await fetcher.fetch("x.test") == b"a" * MAX_BODY
        host.respond = response(b"a" * (MAX_BODY + 1))
        failure = await failed(fetcher.fetch("x.test"))
    assert failure.detail == f"{HOST} served more than 65536 octets"


async def _endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _i in range(10_000):
        writer.write(b"1000\r\n" + b"a" * 4096 + b"\r\n")
        await writer.drain()


@pytest.mark.rfc("8461-3.3-p")
async def test_an_endless_body_is_broken_off(bench: Bench, good: Issued) -> None:
    failure, _ = await bench.failure(good, _endless)
    assert failure.detail == f"{HOST} served more than 65536 octets"


@pytest.mark.rfc("8461-3.3-p")
async def test_l9_a_compressed_body_is_refused_unread(bench: Bench, good: Issued) -> None:
    bomb = gzip.compress(b"a" * 50_000_000)
    headers = ["Content-Type: text/plain", "Content-Encoding: gzip"]
    failure, _ = await bench.failure(good, response(bomb, headers=headers))
    assert failure.detail == f"{HOST} used the Content-Encoding gzip, which was not asked for"


@pytest.mark.rfc("8461-3.3-u")
@pytest.mark.parametrize(
    "octets",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 999\r\n\r\n" + POLICY,
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n20\r\nversion",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: -1\r\n\r\nabcdef",
        b"HTTP/1.1 200 OK\r\nContent-Type: text",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"\x00\xff\x00\xff\r\n\r\n",
        POLICY,
        b"",
    ],
)
async def test_broken_and_short_responses_are_failures(bench: Bench, good: Issued, octets: bytes) -> None:
    failure, _ = await bench.failure(good, raw(octets))
    assert failure.result_type is FETCH_ERROR
    assert failure.detail.startswith(f"{HOST} broke off or broke HTTP: ")


@pytest.mark.rfc("8461-3.3-u")
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_body_that_ends_with_the_connection_is_refused(bench: Bench, good: Issued, version: bytes) -> None:
    octets = b"HTTP/" + version + b" 200 OK\r\nContent-Type: text/plain\r\n\r\n" + POLICY
    failure, _ = await bench.failure(good, raw(octets))
    assert failure.detail == f"{HOST} did not say how long the policy is (neither Content-Length nor chunks)"


async def test_chunks_are_put_together(bench: Bench, good: Issued) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"8\r\nversion:\r\n" + b"7\r\n STSv1\n\r\n" + b"0\r\n\r\n"
    async with policy_host(raw(head + body), bench.context(good)) as host:
        assert await bench.fetcher(host.port).fetch("x.test") == b"version: STSv1\n"


async def test_a_flood_of_headers_is_refused(bench: Bench, good: Issued) -> None:
    flood = b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"a" * 100) for n in range(5000)) + b"\r\n"
    failure, _ = await bench.failure(good, raw(flood))
    assert failure.result_type is FETCH_ERROR


async def _drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1000\r\n\r\n")
    for _i in range(1000):
        writer.write(b"a")
        await writer.drain()
        await asyncio.sleep(0.02)


async def _drip_head(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(1000):
        writer.write(b"X-%d: a\r\n" % number)
        await writer.drain()
        await asyncio.sleep(0.02)


async def _hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


async def _informational(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for _i in range(1000):
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)


@pytest.mark.rfc("8461-3.3-o")
@pytest.mark.parametrize("respond", [_drip, _drip_head, _hang, _informational])
async def test_l9_one_limit_covers_all_of_a_slow_fetch(bench: Bench, good: Issued, respond: Handler) -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    failure, _ = await bench.failure(good, respond, timeout=0.5)
    assert loop.time() - started < 2
    assert failure.result_type is FETCH_ERROR
    assert failure.detail == f"{HOST} did not serve it within 0.5 s"


@pytest.mark.rfc("8461-3.3-o")
async def test_the_limit_covers_the_handshake(bench: Bench) -> None:
    async with policy_host(_hang, None) as host:
        failure = await failed(bench.fetcher(host.port, timeout=0.3).fetch("x.test"))
    assert failure.detail == f"{HOST} did not serve it within 0.3 s"


@pytest.mark.stock
async def test_stock_l9_httpx_time_out_starts_anew_with_each_read(bench: Bench, good: Issued) -> None:
    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n")
        for _i in range(8):
            writer.write(b"a")
            await writer.drain()
            await asyncio.sleep(0.1)

    async with policy_host(drip, None) as host, httpx.AsyncClient(trust_env=False, timeout=0.4) as client:
        loop = asyncio.get_running_loop()
        started = loop.time()
        assert (await client.get(f"http://127.0.0.1:{host.port}/")).text == "a" * 8
        assert loop.time() - started > 0.6


@pytest.mark.stock
async def test_stock_l9_httpx_asks_for_compression(bench: Bench) -> None:
    async with policy_host(response(b""), None) as host, httpx.AsyncClient(trust_env=False) as client:
        await client.get(f"http://127.0.0.1:{host.port}/")
    assert b"gzip" in host.requests[0].lower()


@pytest.mark.rfc("8461-3.3-k")
async def test_l9_proxies_of_the_environment_are_not_used(
    bench: Bench, good: Issued, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with policy_host(response(POLICY), bench.context(good)) as host:
        assert await bench.fetcher(host.port).fetch("x.test") == POLICY


CERTIFICATES: dict[str, tuple[Callable[[CertificateAuthority], Issued], str]] = {
    "expired": (lambda ca: ca.expired([HOST]), "CertificateExpired: certificate has expired"),
    "not yet valid": (lambda ca: ca.not_yet_valid([HOST]), "NotYetValid: certificate is not yet valid"),
    "self-signed": (lambda ca: ca.issue([HOST], self_signed=True), "UntrustedRoot: self-signed certificate"),
    "unknown CA": (lambda _: CertificateAuthority("Evil").issue([HOST]), "UntrustedRoot: "),
    "no intermediate": (
        lambda ca: CertificateAuthority("Inter", parent=ca).issue([HOST], with_chain=False),
        "UntrustedRoot: ",
    ),
    "the domain's name": (lambda ca: ca.issue(["x.test"]), "SubjectMismatch: Hostname mismatch"),
    "another name": (lambda ca: ca.issue(["mta-sts.y.test"]), "SubjectMismatch: Hostname mismatch"),
    "the provider's name": (lambda ca: ca.issue(["mta-sts.provider.test"]), "SubjectMismatch: "),
    "common name only": (lambda ca: ca.issue([], common_name=HOST), "SubjectMismatch: "),
    "common name and address": (lambda ca: ca.issue([], common_name=HOST, ips=["127.0.0.1"]), "SubjectMismatch: "),
    "partial wildcard": (lambda ca: ca.issue(["mta-*.x.test"]), "SubjectMismatch: "),
    "wide wildcard": (lambda ca: ca.issue(["*.test"]), "SubjectMismatch: "),
    "bare wildcard": (lambda ca: ca.issue(["*"]), "SubjectMismatch: "),
    "client certificate": (
        lambda ca: ca.issue([HOST], usage=ExtendedKeyUsageOID.CLIENT_AUTH),
        "WrongKeyUsage: unsuitable certificate purpose",
    ),
}


@pytest.mark.rfc("8461-3.3-a", "8461-3.3-b", "8461-3.3-c", "8461-3.3-e", "8461-3.3-f", "8461-8.2-a")
@pytest.mark.parametrize("name", list(CERTIFICATES))
async def test_certificates_that_are_refused(bench: Bench, ca: CertificateAuthority, name: str) -> None:
    issue, reason = CERTIFICATES[name]
    failure, host = await bench.failure(issue(ca), response(POLICY))
    assert failure.result_type is WEBPKI_INVALID
    assert failure.detail.startswith(f"the certificate of {HOST} was refused: {reason}")
    assert host.requests == []


async def test_the_refused_certificate_is_named(bench: Bench, ca: CertificateAuthority) -> None:
    failure, _ = await bench.failure(ca.issue(["www.y.test", "y.test"]), response(POLICY))
    assert "(certificate for www.y.test, y.test, issued by CN=Test Root, valid until 20" in failure.detail


@pytest.mark.rfc("8461-3.3-f", "8461-8.2-a")
@pytest.mark.parametrize("names", [["*.x.test"], ["other.test", HOST], [HOST.upper()]])
async def test_certificates_that_are_taken(bench: Bench, ca: CertificateAuthority, names: list[str]) -> None:
    async with policy_host(response(POLICY), bench.context(ca.issue(names))) as host:
        assert await bench.fetcher(host.port).fetch("x.test") == POLICY


async def test_a_chain_with_its_intermediate_is_taken(bench: Bench, ca: CertificateAuthority) -> None:
    issued = CertificateAuthority("Inter", parent=ca).issue([HOST])
    async with policy_host(response(POLICY), bench.context(issued)) as host:
        assert await bench.fetcher(host.port).fetch("x.test") == POLICY


@pytest.mark.rfc("8461-3.3-d", "8461-10.1-a")
async def test_the_trust_store_is_a_setting(bench: Bench, good: Issued) -> None:
    async with policy_host(response(POLICY), bench.context(good)) as host:
        failure = await failed(bench.fetcher(host.port, ca_file="").fetch("x.test"))
    assert failure.result_type is WEBPKI_INVALID


@pytest.mark.rfc("8461-3.3-v")
async def test_plain_http_on_the_port_is_a_failure(bench: Bench) -> None:
    async with policy_host(response(POLICY), None) as host:
        failure = await failed(bench.fetcher(host.port, timeout=0.5).fetch("x.test"))
    assert failure.result_type is FETCH_ERROR


@pytest.mark.rfc("8461-7.2-a")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_1_2_and_1_3_both_work(bench: Bench, good: Issued, version: ssl.TLSVersion) -> None:
    context = bench.context(good)
    context.minimum_version = context.maximum_version = version
    async with policy_host(response(POLICY), context) as host:
        assert await bench.fetcher(host.port).fetch("x.test") == POLICY


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
async def test_older_tls_is_refused(bench: Bench, good: Issued) -> None:
    context = bench.context(good)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with policy_host(response(POLICY), context) as host:
        failure = await failed(bench.fetcher(host.port).fetch("x.test"))
    assert failure.result_type is FETCH_ERROR
    assert "TLS handshake failed" in failure.detail
    assert host.requests == []


@pytest.mark.rfc("8461-3.3-w")
@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "fd00::1"]
)
async def test_addresses_that_are_not_public_are_never_connected_to(bench: Bench, good: Issued, address: str) -> None:
    bench.resolver.address_answers[HOST] = addresses(address)
    async with policy_host(response(POLICY), bench.context(good)) as host:
        failure = await failed(bench.fetcher(host.port, allow_private=False).fetch("x.test"))
    assert failure.result_type is FETCH_ERROR
    assert failure.detail == f"{HOST} has only addresses that are not public ({ip_address(address)})"
    assert host.connections == 0


@pytest.mark.rfc("8461-3.3-w")
async def test_the_address_connected_to_is_the_one_that_was_checked(bench: Bench, good: Issued) -> None:
    async with policy_host(response(POLICY), bench.context(good)) as host:
        await bench.fetcher(host.port).fetch("x.test")
    assert bench.resolver.asked == [("ADDRESS", HOST)]


async def test_each_address_is_tried(bench: Bench, good: Issued) -> None:
    bench.resolver.address_answers[HOST] = addresses("127.0.0.2", "127.0.0.3", "127.0.0.1")
    async with policy_host(response(POLICY), bench.context(good)) as host:
        assert await bench.fetcher(host.port).fetch("x.test") == POLICY


async def test_when_no_address_answers_each_is_named(bench: Bench) -> None:
    bench.resolver.address_answers[HOST] = addresses("127.0.0.2", "127.0.0.3")
    async with policy_host(response(POLICY), None) as host:
        failure = await failed(bench.fetcher(host.port).fetch("x.test"))
    assert failure.result_type is FETCH_ERROR
    assert failure.detail.startswith(f"{HOST} cannot be connected to: 127.0.0.2: ")
    assert "; 127.0.0.3: " in failure.detail
    assert failure.detail.endswith("Connection refused")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (NXDOMAIN, "has no address (nxdomain)"),
        (SERVFAIL, "could not be resolved (servfail: 127.0.0.1: SERVFAIL)"),
    ],
)
async def test_a_policy_host_without_address(bench: Bench, answer: Answer[IPAddress], reason: str) -> None:
    bench.resolver.address_answers[HOST] = answer
    failure = await failed(bench.fetcher(1).fetch("x.test"))
    assert failure.result_type is FETCH_ERROR
    assert failure.detail == f"{HOST} {reason}"


@pytest.mark.parametrize("domain", ["xn--a.test", "xn--zz-99.test", "a_b.test", "x" * 63 + ".test"])
async def test_odd_domains_raise_nothing_else(bench: Bench, domain: str) -> None:
    assert (await failed(bench.fetcher(1).fetch(domain))).result_type is FETCH_ERROR


async def test_fetches_are_bounded_and_waiting_costs_no_time(bench: Bench, good: Issued) -> None:
    """While two are held up for longer than one may take, the third waits and then has its full time."""
    gate = asyncio.Event()

    async def gated(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        await response(POLICY)(reader, writer)

    async with policy_host(gated, bench.context(good)) as host:
        fetcher = bench.fetcher(host.port, most=2, timeout=0.5)
        first = [asyncio.create_task(failed(fetcher.fetch("x.test"))) for _ in range(2)]
        third = asyncio.create_task(fetcher.fetch("x.test"))
        await asyncio.gather(*first)
        gate.set()
        assert await third == POLICY
    assert host.busiest <= 3


async def test_cancelling_leaves_nothing_behind(bench: Bench, good: Issued) -> None:
    seen = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        seen.set()
        await reader.read()

    async with policy_host(hang, bench.context(good)) as host:
        fetch = asyncio.create_task(bench.fetcher(host.port).fetch("x.test"))
        await seen.wait()
        fetch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetch


def test_a_ca_file_that_is_none_is_told_at_start(tmp_path: Path) -> None:
    (tmp_path / "junk.pem").write_text("junk")
    for name in ("junk.pem", "missing.pem"):
        with pytest.raises(ValueError, match=name):
            HttpsPolicyFetcher(resolver=FakeResolver(), ca_file=str(tmp_path / name))

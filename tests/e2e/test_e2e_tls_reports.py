"""TLS reports from session to endpoint: a relay in this process, the lab around it, a clock that jumps over days."""

import asyncio
import contextlib
import gzip
import json
import ssl
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import dkim
import pytest
from counted_sessions import count_in
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from e2e_scene import Scene, is_event
from https_server import Handler, PolicyHost, policy_host, raw, response
from parsedmarc import parse_report_email, parse_smtp_tls_report_json
from tls_report_makers import EXPIRED, STS, result

from policy.tlsrpt import parse_endpoint
from relay.app.relay import Relay, running
from relay.app.state_dir import REPORT_FILE, StateDirLock, queue_file
from relay.config import load
from relay.dkim import DkimSigner
from relay.lab.ca import CertificateKind
from relay.lab.client import submit
from relay.lab.dns import DnsFault
from relay.lab.internet import Lab
from relay.lab.mx_behaviour import MxBehaviour
from relay.lab.mx_records import ReceivedMessage
from relay.lab.policy_host import PolicySite
from relay.queue.ids import worker_of
from relay.queue.tls_results import TlsResult
from relay.store.protocols import PlannedReport
from relay.store.sqlite.reports import SqliteReportStore

SETTINGS = """
[tlsrpt]
mode = "on"
organization_name = "Legacy Ltd"
contact = "tls-reports@legacy.test"
dkim_domain = "legacy.test"
dkim_selector = "tlsrpt"
dkim_key_file = "key.pem"
"""
_SPEED = 60
CONTENT = b"Subject: hello\r\n\r\nhello\r\n"


def at(day: date, hour: int) -> datetime:
    return datetime(day.year, day.month, day.day, hour, tzinfo=UTC)


class QuickClock:
    """A minute of it is a second, and it jumps when a test says so; those whose sleep is over then wake."""

    def __init__(self) -> None:
        self._set(datetime.now(UTC))
        self._jumped = asyncio.Event()

    def now(self) -> datetime:
        return self._from + (time.monotonic() - self._since) * _SPEED * timedelta(seconds=1)

    async def sleep(self, seconds: float) -> None:
        until = self.now() + timedelta(seconds=seconds)
        while (left := (until - self.now()).total_seconds()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left / _SPEED):
                    await self._jumped.wait()

    def jump(self, to: datetime) -> None:
        self._set(to)
        jumped, self._jumped = self._jumped, asyncio.Event()
        jumped.set()

    def _set(self, now: datetime) -> None:
        self._from, self._since = now, time.monotonic()


@dataclass
class World:
    """A relay that reports, at noon of some day, and how to get past it."""

    lab: Lab
    scene: Scene
    clock: QuickClock
    signer: DkimSigner
    relay: Relay = field(init=False)

    @property
    def state_dir(self) -> Path:
        return self.scene.directory / "state"

    def publish(self, domain: str, rua: str) -> None:
        self.lab.dns.txt(f"_smtp._tls.{domain}", f"v=TLSRPTv1; rua={rua}")

    async def send(self, domain: str) -> None:
        """Submit a message, which must be taken."""
        host, port = self.relay.listeners[0]
        done = await submit(f"{host}:{port}", "alice@legacy.test", [f"bob@{domain}"], CONTENT)
        assert done.accepted, done

    async def count(self, *domains: str) -> None:
        """Let sessions of today with these domains be counted as though they had been."""
        day = self.clock.now().date()
        results = [
            TlsResult(day=day, recipient_domain=domain, policy=one.policy, failures=one.failures)
            for domain in domains
            for one in (result(STS), result(STS, EXPIRED))
        ]
        await count_in(queue_file(self.state_dir, 0), results)

    def next_morning(self) -> None:
        """After midnight, and the hours over which reports are spread."""
        tomorrow = self.clock.now().date() + timedelta(days=1)
        self.clock.jump(at(tomorrow, 5))

    def metric(self, result: str) -> float:
        return self.relay.registry.get_sample_value("mta_sts_relay_tls_reports_total", {"result": result}) or 0.0

    async def reports(self, result: str, count: int) -> None:
        """Wait until so many have come to this."""
        async with asyncio.timeout(30):
            while self.metric(result) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    def txt(self, name: bytes, **_: object) -> bytes:
        """What dkimpy asks of the DNS. It takes `s=email:tlsrpt` for one service of that name, so it gets the one."""
        assert name == f"{self.signer.record_name}.".encode()
        return self.signer.record.replace("email:tlsrpt", "tlsrpt").encode()


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    made = rsa.generate_private_key(65537, 2048)
    return made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.fixture
async def world(lab: Lab, scene: Scene, key: bytes) -> AsyncIterator[World]:
    key_file = scene.directory / "key.pem"
    key_file.write_bytes(key)
    scene.configure(SETTINGS)
    clock = QuickClock()
    clock.jump(at(clock.now().date() + timedelta(days=1), 12))
    signer = DkimSigner.load(domain="legacy.test", selector="tlsrpt", key_file=key_file)
    made = World(lab, scene, clock, signer)
    settings = load(scene.config)
    with StateDirLock(settings.relay.state_dir):
        async with running(settings, clock=clock) as relay:
            made.relay = relay
            yield made


@asynccontextmanager
async def endpoint(lab: Lab, name: str, respond: Handler, *, known: bool = True) -> AsyncIterator[PolicyHost]:
    """An HTTPS server of that name, with a certificate of the lab's CA unless it is not `known`."""
    kind = CertificateKind.GOOD if known else CertificateKind.SELF_SIGNED
    identity = lab.ca.identity(kind, name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.pem_file)
    lab.dns.a(name, "127.0.0.1")
    async with policy_host(respond, context) as host:
        yield host


class Taker:
    """An endpoint that takes reports."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.bodies.append(await self._body(reader))
        writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")

    async def _body(self, reader: asyncio.StreamReader) -> bytes:
        """What comes until the gzip file is whole."""
        unpacker, body = zlib.decompressobj(zlib.MAX_WBITS | 16), b""
        while not unpacker.eof:
            piece = await reader.read(65536)
            assert piece
            unpacker.decompress(piece)
            body += piece
        return body


def attached(message: ReceivedMessage) -> dict[str, object]:
    """The report in a mail."""
    parsed = message_from_bytes(message.content, policy=policy.default)
    (part,) = [part for part in parsed.walk() if part.get_content_type() == "application/tlsrpt+gzip"]
    content = part.get_content()
    report: dict[str, object] = json.loads(gzip.decompress(content))
    return report


@pytest.mark.rfc("8460-3-aa", "8460-5.3-a", "8460-3-ae", "8460-3-ab", "8460-5.4-a", "8460-3-n", "8460-3-r")
async def test_a_day_passes_and_the_reports_on_it_arrive_by_mail_and_by_https(world: World) -> None:
    lab, taker = world.lab, Taker()
    await lab.domain(
        "rua.test",
        mx=[("mx.rua.test", 10, MxBehaviour(certificate=CertificateKind.SELF_SIGNED))],
        policy=PolicySite(mode="enforce", mx=("mx.elsewhere.test",)),
    )
    lab.dns.cname("_smtp._tls.a.test", "record.provider.test")
    lab.dns.txt("record.provider.test", ("v=TLSRPTv1; rua=mailto:re", "ports@rua.test"))
    async with endpoint(world.lab, "r.test", taker) as host:
        world.publish("b.test", f"https://r.test:{host.port}/v1/x?a=b")
        await world.count("a.test", "b.test", "silent.test")
        world.next_morning()
        (message,) = await lab.hosts["mx.rua.test"].wait_for_messages(1, 30)
        await world.reports("posted", 1)
    assert message.tls, "STARTTLS is tried first, whatever the certificate"
    assert message.forward_paths == ("reports@rua.test",)
    assert dkim.verify(message.content, dnsfunc=world.txt, tlsrpt=True)
    read = parse_report_email(message.content, offline=True)
    assert read["report_type"] == "smtp_tls"
    mailed, posted = attached(message), json.loads(gzip.decompress(taker.bodies[0]))
    assert [read["report"]["report_id"], parse_smtp_tls_report_json(json.dumps(posted))["report_id"]] == [
        mailed["report-id"],
        posted["report-id"],
    ]
    day = world.clock.now().date() - timedelta(days=1)
    for report in (mailed, posted):
        assert report["date-range"] == {"start-datetime": f"{day}T00:00:00Z", "end-datetime": f"{day}T23:59:59Z"}
        assert report["contact-info"] == "tls-reports@legacy.test"
    assert posted["policies"][0]["summary"] == {
        "total-successful-session-count": 1,
        "total-failure-session-count": 1,
    }
    assert host.requests[0].startswith(b"POST /v1/x?a=b HTTP/1.1\r\n")
    assert len(host.requests) == 1
    assert (world.metric("queued"), world.metric("posted"), world.metric("dropped")) == (1, 1, 0)
    assert await world.relay.reasons_not_ready() == []


async def test_no_endpoint_and_no_record_however_odd_keeps_mail_or_other_reports_back(world: World) -> None:
    hanging = asyncio.Event()

    async def hang(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        hanging.set()
        await asyncio.Event().wait()

    await world.lab.domain("shop.test", mx=[("mx.shop.test", 10, None)])
    taker, moved = Taker(), response(b"", status="301 Moved", headers=["Location: https://elsewhere.test/"])
    async with AsyncExitStack() as exits:

        async def serve(name: str, respond: Handler, *, known: bool = True) -> PolicyHost:
            host = await exits.enter_async_context(endpoint(world.lab, f"{name}.r.test", respond, known=known))
            world.publish(f"{name}.test", f"https://{name}.r.test:{host.port}/")
            return host

        hosts = {
            "moves": await serve("moves", moved),
            "hangs": await serve("hangs", hang),
            "babbles": await serve("babbles", raw(b"\x00\xff garbage\r\n\r\n" * 1000)),
            "endless": await serve("endless", response(b"x" * 100_000, status="500 No", length=1 << 40)),
            "unknown": await serve("unknown", Taker(), known=False),
            "good": await serve("good", taker),
        }
        odd = {
            "crlf": "mailto:a@rua.test%0D%0ABcc:%20victim@rua.test",
            "header": "mailto:a@rua.test?bcc=victim@rua.test&subject=x%0D%0AX-Evil:%20y",
            "ftp": "ftp://r.test/,file:///etc/passwd,javascript:1",
            "plain": "http://good.r.test/",
            "address": "https://127.0.0.1/",
            "nothing": "mailto:",
            "gone": "https://no-such-host.test/,mailto:x@no-such-domain.test",
        }
        for name, rua in odd.items():
            world.publish(f"{name}.test", rua)
        await world.lab.domain("rua.test", mx=[("mx.rua.test", 10, None)])
        await world.count(*(f"{name}.test" for name in [*hosts, *odd]))
        world.next_morning()
        async with asyncio.timeout(30):
            await hanging.wait()
        await world.reports("posted", 1)
        await world.reports("dropped", 1)  # who moves
        await world.reports("deferred", 4)  # babbles, endless, unknown, gone
        await world.send("shop.test")
        await world.lab.hosts["mx.shop.test"].wait_for_messages(1, 30)
        (message,) = await world.lab.hosts["mx.rua.test"].wait_for_messages(1, 30)
        assert message.forward_paths == ("a@rua.test",)
        assert b"x-evil" not in message.content.lower()
        assert hosts["unknown"].requests == [], "its certificate is nobody's we know"
        assert len(taker.bodies) == 1
        assert await world.relay.reasons_not_ready() == []


@pytest.mark.rfc("8460-3-ac", "8460-4.2-a", "8460-4.2-c", "8460-4.2-d", "8460-5.3-a", "8461-x-c")
async def test_mail_is_counted_and_the_mail_that_tells_of_it_is_not(world: World) -> None:
    lab = world.lab
    await lab.domain(
        "shop.test",
        mx=[("mx.shop.test", 10, MxBehaviour(certificate=CertificateKind.EXPIRED))],
        policy=PolicySite(mode="testing", mx=("mx.shop.test",)),
    )
    world.publish("shop.test", "mailto:reports@shop.test")
    host = lab.hosts["mx.shop.test"]
    for number in range(3):
        await world.send("shop.test")
        await host.wait_for_messages(number + 1, 30)
    world.next_morning()
    *_, message = await host.wait_for_messages(4, 30)
    assert message.tls
    report: Any = attached(message)
    (one,) = report["policies"]
    assert one["policy"]["policy-type"] == "sts"
    assert one["policy"]["mx-host"] == ["mx.shop.test"]
    (failure,) = one["failure-details"]
    assert failure["result-type"] == "certificate-expired"
    sessions = len([session for session in host.sessions if session.messages]) - 1
    assert failure["failed-session-count"] == one["summary"]["total-failure-session-count"] == sessions
    assert parse_report_email(message.content, offline=True)["report_type"] == "smtp_tls"
    day = str(world.clock.now().date())
    assert (await world.scene.cli("tlsrpt", "preview", "--day", day))[0] == 1, "the report itself is in no report"


@pytest.mark.rfc("8460-8-a")
async def test_reporting_is_switched_off_and_on_without_a_restart(world: World) -> None:
    taker, settings = Taker(), world.relay.settings
    off = settings.model_copy(update={"tlsrpt": settings.tlsrpt.model_copy(update={"mode": "off"})})
    async with endpoint(world.lab, "r.test", taker) as host:
        world.publish("a.test", f"https://r.test:{host.port}/")
        await world.count("a.test")
        assert await world.relay.reload(off) == ()
        assert world.relay._outbound.poster is None
        world.next_morning()
        await world.clock.sleep(150)  # two looks, at least
        assert host.connections == 0
        assert await world.relay.reload(settings) == ()
        await world.reports("posted", 1)
    assert len(taker.bodies) == 1


async def test_a_key_that_is_gone_at_a_reload_leaves_all_as_it_was(world: World) -> None:
    settings = world.relay.settings
    gone = settings.tlsrpt.model_copy(update={"dkim_key_file": world.scene.directory / "gone.pem"})
    outbound = world.relay._outbound
    with pytest.raises(ValueError, match=r"gone\.pem cannot be read"):
        await world.relay.reload(settings.model_copy(update={"tlsrpt": gone}))
    assert (world.relay.settings, world.relay._outbound) == (settings, outbound)


async def test_preview_shows_what_would_be_sent_and_where_to(world: World) -> None:
    day = str(world.clock.now().date())
    status, _, said = await world.scene.cli("tlsrpt", "preview", "--day", day)
    assert (status, said) == (1, f"no TLS sessions are counted on {day}\n")
    world.publish("a.test", "mailto:reports@rua.test,https://r.test/v1")
    await world.count("a.test", "b.test")
    first, second = await world.scene.cli_json("tlsrpt", "preview", "--day", day)
    assert (first["domain"], first["endpoints"]) == ("a.test", ["mailto:reports@rua.test", "https://r.test/v1"])
    assert (second["domain"], second["endpoints"], second["problem"]) == ("b.test", [], None)
    assert parse_smtp_tls_report_json(json.dumps(first["report"]))["organization_name"] == "Legacy Ltd"
    (only,) = await world.scene.cli_json("tlsrpt", "preview", "--day", day, "--domain", "B.test.")
    assert only["domain"] == "b.test"
    status, table, _ = await world.scene.cli("tlsrpt", "preview", "--day", day)
    assert status == 0
    assert "mailto:reports@rua.test, https://r.test/v1" in table
    assert "nobody: it asks for no reports" in table
    assert "certificate-expired mx1.mail.company-y.example 1" in table
    world.lab.dns.override("_smtp._tls.b.test", "TXT", DnsFault.SERVFAIL)
    _, second = await world.scene.cli_json("tlsrpt", "preview", "--day", day)
    assert second["problem"].startswith("servfail: ")


async def test_kill_9_while_a_report_is_posted_sends_nothing_a_second_time(scene: Scene, lab: Lab, key: bytes) -> None:
    (scene.directory / "key.pem").write_bytes(key)
    scene.configure(SETTINGS)
    await lab.domain("rua.test", mx=[("mx.rua.test", 10, None)])
    posted = asyncio.Event()

    async def never_answer(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        posted.set()
        await reader.read(-1)

    async with endpoint(lab, "r.test", never_answer) as host:
        await plan_for_now(state_dir_of(scene), "mailto:t@rua.test", f"https://r.test:{host.port}/")
        async with scene.relay as relay:
            async with asyncio.timeout(30):
                await posted.wait()
            await relay.wait_for(is_event("recipient.delivered", forward_path="t@rua.test"))
            await relay.kill()
            begun = len(relay.events)
            await relay.start()
            dropped = await relay.wait_for(is_event("report.dropped"), first=begun)
        assert dropped["endpoint"] == f"https://r.test:{host.port}/"
        assert "may have been sent" in dropped["reason"]
        assert len(host.requests) == 1
    assert len(lab.hosts["mx.rua.test"].messages) == 1


def state_dir_of(scene: Scene) -> Path:
    made = scene.directory / "state"
    made.mkdir(mode=0o700)
    return made


async def plan_for_now(state_dir: Path, *endpoints: str) -> None:
    """Leave files as a relay does that has planned a report on yesterday, and counted something for it."""
    now = datetime.now(UTC)
    yesterday = now.date() - timedelta(days=1)
    counted = TlsResult(day=yesterday, recipient_domain="a.test", policy=STS)
    await count_in(queue_file(state_dir, 0), [counted])
    found = [one for one in map(parse_endpoint, endpoints) if one is not None]
    report = PlannedReport(
        day=yesterday,
        domain="a.test",
        unique_id="U1",
        deliveries=tuple((one, f"Q{number}") for number, one in enumerate(found)),
        first_attempt_at=now,
        give_up_at=now + timedelta(days=1),
    )
    store = await SqliteReportStore.open(state_dir / REPORT_FILE)
    assert await store.plan(report)
    await store.close()


@pytest.mark.rfc("8460-4.2-h")
async def test_what_several_workers_count_is_one_report_and_one_of_them_sends(
    scene: Scene, lab: Lab, key: bytes
) -> None:
    (scene.directory / "key.pem").write_bytes(key)
    scene.configure(SETTINGS, replace=("[relay]", "[relay]\nworkers = 2"))
    await lab.domain("shop.test", mx=[("mx.shop.test", 10, None)])
    await lab.domain("rua.test", mx=[("mx.rua.test", 10, None)])
    await plan_for_now(state_dir_of(scene), "mailto:t@rua.test")
    days = [datetime.now(UTC).date()]
    async with scene.relay:
        taken: dict[int, str] = {}
        for _ in range(200):
            queue_id = await scene.send("bob@shop.test")
            await scene.settled(queue_id, "delivered")
            taken.setdefault(worker_of(queue_id), queue_id)
            if len(taken) == 2:
                break
        assert taken.keys() == {0, 1}
        days = sorted({*days, datetime.now(UTC).date()})  # a test may run over midnight
        found = [await scene.cli_json("tlsrpt", "preview", "--day", str(day)) for day in days]
        (message,) = await lab.hosts["mx.rua.test"].wait_for_messages(1, 30)
        assert attached(message)["report-id"] == "U1@legacy.test"
        assert 'mta_sts_relay_tls_reports_total{result="queued"} 1.0' in (await scene.http("/metrics"))[1]
    reports = [one["report"] for day in found for one in day]
    assert len(reports) <= len(days), "one for each day, not for each worker"
    counts = [one["policies"][0]["summary"]["total-successful-session-count"] for one in reports]
    assert sum(counts) == len([session for session in lab.hosts["mx.shop.test"].sessions if session.messages])


@pytest.mark.rfc("8460-3-ah", "8460-3-ai")
async def test_the_key_record_is_printed_and_config_check_looks_for_it(world: World) -> None:
    scene, name = world.scene, world.signer.record_name
    record = await scene.cli_json("tlsrpt", "key-record")
    assert (record["name"], record["type"], record["value"]) == (name, "TXT", world.signer.record)
    status, text, _ = await scene.cli("tlsrpt", "key-record")
    assert (status, record["zone_file"] in text) == (0, True)
    assert all(len(piece) <= 255 for piece in record["zone_file"].split('"')[1::2])
    assert "".join(record["zone_file"].split('"')[1::2]) == record["value"]
    status, said, _ = await scene.cli("config", "check")
    assert (status, f"warning: TLS reports by mail will be ignored: {name} is not in the DNS" in said) == (0, True)
    world.lab.dns.txt(name, "v=DKIM1; k=rsa; p=AAAA")
    assert f"{name} has another key" in (await scene.cli("config", "check"))[1]
    world.lab.dns.txt(name, tuple(record["zone_file"].split('"')[1::2]))
    assert "TLS reports" not in (await scene.cli("config", "check"))[1]


async def test_without_a_key_nothing_starts(scene: Scene) -> None:
    scene.configure(SETTINGS)
    for command in (("serve",), ("config", "check")):
        status, _, said = await scene.cli(*command)
        assert status == 2
        assert "tlsrpt.dkim_key_file: " in said
        assert "to make one: openssl genrsa -out " in said

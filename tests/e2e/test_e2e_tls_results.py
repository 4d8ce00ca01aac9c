"""What is counted for TLS reports (RFC 8460 §4): a relay as it ships, faulty domains, and then its queue file."""

import asyncio
import signal
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from e2e_scene import QUICK_RETRIES, Scene, is_event

from policy.requirement import PolicyType
from relay.app.session_counts import counts_in
from relay.app.state_dir import queue_files
from relay.lab.ca import CertificateKind, tlsa_record
from relay.lab.dns import DnsFault
from relay.lab.internet import Lab
from relay.lab.mx_behaviour import HANG, Answer, Handshake, Moment, MxBehaviour, Phase, closing
from relay.lab.policy_host import PolicySite
from relay.queue.tls_results import TlsResult

TLSRPT = """
[tlsrpt]
mode = "on"
organization_name = "Legacy Ltd"
contact = "tls-reports@legacy.test"
dkim_domain = "legacy.test"
dkim_selector = "tlsrpt"
dkim_key_file = "key.pem"
"""
ONE_ATTEMPT = '[queue]\nretry = ["1h"]\n'
EXPIRED = MxBehaviour(certificate=CertificateKind.EXPIRED)
NO_TLS = MxBehaviour(offers_starttls=False)

Line = tuple[str, str, int, tuple[str, ...]]
"""Policy type and domain, sessions, and of each failure the type and the reason."""


@pytest.fixture
def reporting(scene: Scene) -> Scene:
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (scene.directory / "key.pem").write_bytes(pem)
    scene.configure(TLSRPT + ONE_ATTEMPT)
    return scene


async def results(scene: Scene, domain: str) -> Sequence[TlsResult]:
    """What all files say of the domain, yesterday included: a test may run over midnight."""
    today = datetime.now(UTC).date()
    async with counts_in(queue_files(scene.directory / "state").values()) as counts:
        return [one for day in (today - timedelta(days=1), today) for one in await counts.results(day, domain)]


async def counted(scene: Scene, domain: str) -> list[Line]:
    return sorted(
        (
            one.policy.policy_type.value,
            one.policy.policy_domain,
            one.sessions,
            tuple(f"{failure.result_type.value}: {failure.failure_reason_code}" for failure in one.failures),
        )
        for one in await results(scene, domain)
    )


async def until_counted(scene: Scene, domain: str, lines: int) -> None:
    """What no settlement tells of is written a moment later."""
    async with asyncio.timeout(20):
        while len(await results(scene, domain)) < lines:  # noqa: ASYNC110  another process writes it
            await asyncio.sleep(0.05)


async def publish(lab: Lab, name: str, behaviour: MxBehaviour | None, mode: str, named: str = "") -> None:
    """A domain with one MX host, which its policy names unless it names another."""
    host = f"mx.{name}.test"
    site = PolicySite(mode=mode, mx=(named or host,)) if mode else None
    await lab.domain(f"{name}.test", mx=[(host, 10, behaviour)], policy=site)


@pytest.mark.rfc(
    "8460-4.2-a", "8460-4.2-b", "8460-4.2-c", "8460-4.2-d", "8460-4.2-e", "8460-4.2-f", "8460-4.3.1-a", "8460-4.3.1-c",
    "8460-4.3.1-f", "8460-4.3.2.2-a", "8460-4.3.2.2-c", "8460-4.3.4-a",
)  # fmt: skip
async def test_each_fault_is_counted_as_what_it_is(reporting: Scene, lab: Lab) -> None:
    await publish(lab, "good", None, "enforce")
    await publish(lab, "expired", EXPIRED, "enforce")
    await publish(lab, "testing", EXPIRED, "testing")
    await publish(lab, "stranger", None, "enforce", "mx.elsewhere.test")
    await publish(lab, "open", None, "")
    await publish(lab, "plain", NO_TLS, "")
    await publish(lab, "none", NO_TLS, "none")
    for name, site in (
        ("gone", PolicySite(mode="enforce", mx=("mx.gone.test",), status=404)),
        ("forged", PolicySite(mode="enforce", mx=("mx.forged.test",), certificate=CertificateKind.SELF_SIGNED)),
    ):
        await lab.domain(f"{name}.test", mx=[(f"mx.{name}.test", 10, None)], policy=site)
    lab.dns.mx("down.test", (10, "mx.down.test"))
    lab.dns.a("mx.down.test", "127.9.9.9")
    async with reporting.relay:
        for _ in range(5):
            await reporting.settled(await reporting.send("bob@good.test"), "delivered")
        for name in ("testing", "open", "plain", "none", "gone", "forged"):
            await reporting.settled(await reporting.send(f"bob@{name}.test"), "delivered")
        for name in ("expired", "stranger", "down"):
            await reporting.settled(await reporting.send(f"bob@{name}.test"), "deferred")
        for name in ("gone", "forged"):
            await until_counted(reporting, f"{name}.test", 2)
        expected: dict[str, list[Line]] = {
            "good": [("sts", "good.test", 1, ())],
            "expired": [("sts", "expired.test", 1, ("certificate-expired: certificate-expired",))],
            "testing": [("sts", "testing.test", 1, ("certificate-expired: certificate-expired",))],
            "stranger": [("sts", "stranger.test", 1, ("validation-failure: mx-not-in-policy",))],
            "open": [("no-policy-found", "open.test", 1, ())],
            "plain": [
                ("no-policy-found", "plain.test", 1, ("starttls-not-supported: start-tls-not-supported",)),
            ],
            "none": [("no-policy-found", "none.test", 1, ("starttls-not-supported: start-tls-not-supported",))],
            "down": [],
        }
        assert {name: await counted(reporting, f"{name}.test") for name in expected} == expected
        for name, result_type in (("gone", "sts-policy-fetch-error"), ("forged", "sts-webpki-invalid")):
            without, fetch = await counted(reporting, f"{name}.test")
            assert without == ("no-policy-found", f"{name}.test", 1, ())
            assert fetch[:3] == ("sts", f"{name}.test", 1)
            assert fetch[3][0].startswith(f"{result_type}: ")


@pytest.mark.rfc("8460-4.4-o", "8460-4.4-p", "8460-4.4-q", "8460-4.4-r", "8460-4.5-b", "8460-4.4-j", "8460-4.1-d")
async def test_what_a_failure_tells(reporting: Scene, lab: Lab) -> None:
    await publish(lab, "expired", EXPIRED, "enforce")
    async with reporting.relay:
        await reporting.settled(await reporting.send("bob@expired.test"), "deferred")
    (result,) = await results(reporting, "expired.test")
    assert result.policy.policy_string == ("version: STSv1", "mode: enforce", "mx: mx.expired.test", "max_age: 86400")
    assert result.policy.mx_host == ("mx.expired.test",)
    (failure,) = result.failures
    assert failure.receiving_ip == lab.hosts["mx.expired.test"].address
    assert failure.sending_mta_ip.startswith("127.")
    assert (failure.receiving_mx_hostname, failure.receiving_mx_helo) == ("mx.expired.test", "mx.expired.test")


@pytest.mark.rfc("8460-4-d", "8460-4.3.2.1-b", "8460-4.3.2.1-c", "8460-4.5-a", "8460-3-c")
async def test_dane_and_mta_sts_are_counted_side_by_side(reporting: Scene, lab: Lab) -> None:
    for name, right in (("both", True), ("wrong", False)):
        await publish(lab, name, None, "enforce")
        lab.dns.sign(f"{name}.test")
        shown = lab.ca.identity(CertificateKind.GOOD, f"mx.{name}.test").certificate
        record = tlsa_record(3, 1, 1, shown if right else lab.ca.root.certificate)
        lab.dns.tlsa(f"mx.{name}.test", record, port=lab.smtp_port)
    await publish(lab, "bogus", None, "")
    lab.dns.sign("bogus.test")
    lab.dns.override(f"_{lab.smtp_port}._tcp.mx.bogus.test", "TLSA", DnsFault.BOGUS)
    for name in ("forged-mx", "forged-host"):
        await publish(lab, name, None, "")
    lab.dns.override("forged-mx.test", "MX", DnsFault.BOGUS)
    for record_type in ("A", "AAAA"):
        lab.dns.override("mx.forged-host.test", record_type, DnsFault.BOGUS)
    async with reporting.relay:
        await reporting.settled(await reporting.send("bob@both.test"), "delivered")
        for name in ("wrong", "bogus", "forged-mx", "forged-host"):
            await reporting.settled(await reporting.send(f"bob@{name}.test"), "deferred")
    assert await counted(reporting, "both.test") == [("sts", "both.test", 1, ()), ("tlsa", "mx.both.test", 1, ())]
    assert await counted(reporting, "wrong.test") == [
        ("sts", "wrong.test", 1, ()),
        ("tlsa", "mx.wrong.test", 1, ("validation-failure: tlsa-mismatch",)),
    ]
    assert await counted(reporting, "bogus.test") == [
        ("tlsa", "mx.bogus.test", 1, ("dnssec-invalid: dnssec-bogus",)),
    ]
    assert await counted(reporting, "forged-mx.test") == [
        ("tlsa", "forged-mx.test", 1, ("dnssec-invalid: mx-dnssec-bogus",)),
    ]
    assert await counted(reporting, "forged-host.test") == [
        ("tlsa", "mx.forged-host.test", 1, ("dnssec-invalid: address-dnssec-bogus",)),
    ]
    (tlsa,) = [one.policy for one in await results(reporting, "both.test") if one.policy.policy_type is PolicyType.TLSA]
    shown = lab.ca.identity(CertificateKind.GOOD, "mx.both.test").certificate
    assert tlsa.policy_string == (tlsa_record(3, 1, 1, shown).upper(),)


@pytest.mark.rfc("8460-4.2-b", "8460-4.2-c")
async def test_a_handshake_that_fails_is_counted_though_plaintext_and_the_next_host_come_after_it(
    reporting: Scene, lab: Lab
) -> None:
    banners = iter([None, None, closing("421 4.3.2 too busy")])
    broken = MxBehaviour(handshake=Handshake.ALERT, replies={Phase.BANNER: lambda _moment: next(banners)})
    await lab.domain("two.test", mx=[("mx1.two.test", 10, broken), ("mx2.two.test", 20, None)])
    async with reporting.relay:
        await reporting.settled(await reporting.send("bob@two.test"), "delivered")
    assert len(lab.hosts["mx1.two.test"].sessions) == 3
    good, bad = await counted(reporting, "two.test")
    assert good == ("no-policy-found", "two.test", 1, ())
    assert bad[:3] == ("no-policy-found", "two.test", 1)
    assert [each.partition(":")[0] for each in bad[3]] == ["validation-failure"]


@pytest.mark.rfc("8460-4.2-c", "8460-4.2-i")
async def test_a_session_that_a_stop_breaks_off_is_counted_once(reporting: Scene, lab: Lab) -> None:
    reached = asyncio.Event()

    def hang_once(_moment: Moment) -> Answer | None:
        if reached.is_set():
            return None
        reached.set()
        return HANG

    await publish(lab, "slow", MxBehaviour(replies={Phase.MAIL: hang_once}), "enforce")
    async with reporting.relay:
        queue_id = await reporting.send("bob@slow.test")
        async with asyncio.timeout(20):
            await reached.wait()
    assert await counted(reporting, "slow.test") == [("sts", "slow.test", 1, ())]
    async with reporting.relay:
        await reporting.settled(queue_id, "delivered")
    assert await counted(reporting, "slow.test") == [("sts", "slow.test", 2, ())]


@pytest.mark.rfc("8460-4.2-i", "8460-4.2-c")
async def test_kill_9_between_attempts_counts_no_attempt_twice(reporting: Scene, lab: Lab) -> None:
    await publish(lab, "expired", EXPIRED, "enforce")
    reporting.configure(TLSRPT + QUICK_RETRIES)
    for _ in range(3):
        await reporting.relay.start()
        queue_id = await reporting.send("bob@expired.test")
        await reporting.settled(queue_id, "deferred")
        await reporting.relay.kill()
    ((policy_type, _, sessions, failures),) = await counted(reporting, "expired.test")
    assert (policy_type, failures) == ("sts", ("certificate-expired: certificate-expired",))
    assert 3 <= sessions <= len(lab.hosts["mx.expired.test"].sessions)


@pytest.mark.rfc("8460-4.2-c", "8460-4.2-h")
async def test_connections_are_counted_once_each_whatever_they_carry_and_whose_they_are(
    reporting: Scene, lab: Lab
) -> None:
    await lab.domain("one.test", mx=[("mx.shared.test", 10, None)])
    lab.dns.mx("two.test", (10, "mx.shared.test"))
    reporting.configure(TLSRPT + ONE_ATTEMPT, replace=("[relay]\n", "[relay]\nworkers = 2\n"))
    async with reporting.relay:
        ids = await asyncio.gather(*(reporting.send("bob@one.test", "bob@two.test") for _ in range(30)))
        for queue_id in ids:
            for domain in ("one.test", "two.test"):
                await reporting.relay.wait_for(
                    is_event("recipient.delivered", queue_id=queue_id, forward_path=f"bob@{domain}")
                )
    arrived = lab.hosts["mx.shared.test"].messages
    carried = {(id(one.session), path.partition("@")[2]) for one in arrived for path in one.forward_paths}
    assert len(carried) < 2 * len(ids), "some were used again"
    for domain in ("one.test", "two.test"):
        lines = await counted(reporting, domain)
        assert {line[:2] for line in lines} == {("no-policy-found", domain)}
        assert sum(line[2] for line in lines) == len([one for one in carried if one[1] == domain])


@pytest.mark.rfc("8460-8-a")
async def test_nothing_is_counted_until_somebody_reports(reporting: Scene, lab: Lab) -> None:
    await publish(lab, "good", None, "enforce")
    await publish(lab, "stranger", None, "enforce", "mx.elsewhere.test")
    reporting.configure(ONE_ATTEMPT)
    async with reporting.relay as relay:
        await reporting.settled(await reporting.send("bob@good.test"), "delivered")
        await reporting.settled(await reporting.send("bob@stranger.test"), "deferred")
        assert [await counted(reporting, name) for name in ("good.test", "stranger.test")] == [[], []]
        reporting.configure(TLSRPT + ONE_ATTEMPT)
        relay.send_signal(signal.SIGHUP)
        await relay.wait_for(is_event("config.reloaded"))
        await reporting.settled(await reporting.send("bob@good.test"), "delivered")
    assert await counted(reporting, "good.test") == [("sts", "good.test", 1, ())]

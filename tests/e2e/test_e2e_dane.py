"""DANE, end to end: a relay as it ships behind a resolver that validates, and hosts with TLSA records."""

import pytest
from e2e_scene import Scene, is_event, status_fields

from relay.lab.ca import CertificateKind, tlsa_record
from relay.lab.dns import DnsFault
from relay.lab.internet import Lab
from relay.lab.mx_behaviour import MxBehaviour
from relay.lab.policy_host import PolicySite

MX, SPARE = "mx1.shop.test", "mx2.shop.test"
SELF_SIGNED = MxBehaviour(certificate=CertificateKind.SELF_SIGNED)


def publish(lab: Lab, host: str, *, right: bool = True) -> None:
    shown = lab.ca.identity(lab.hosts[host].behaviour.certificate, host).certificate
    record = tlsa_record(3, 1, 1, shown if right else lab.ca.root.certificate)
    lab.dns.tlsa(host, record, port=lab.smtp_port)


async def test_what_the_records_stand_for_is_delivered_and_told(scene: Scene, lab: Lab) -> None:
    await lab.domain("shop.test", mx=[(MX, 10, SELF_SIGNED)])
    lab.dns.sign("shop.test")
    publish(lab, MX)
    async with scene.relay:
        told = await scene.settled(await scene.send("bob@shop.test"), "delivered")
        await scene.relay.wait_for(is_event("dane.active"), 20)
        _, text = await scene.http("/metrics")
        look = await scene.cli_json("check", "shop.test", "--connect")
    assert (told["security"], told["dane"], told["mx"]) == ("dane", "domain", MX)
    assert 'mta_sts_relay_deliveries_total{security="dane",tls_version="TLSv1.3"} 1.0' in text
    assert "mta_sts_relay_dane_active 1.0" in text
    (host,) = look["hosts"]
    assert (look["deliverable"], host["dane"]) == (True, "domain")
    assert host["tlsa"].startswith(f"TLSA records of {MX}: 3 1 1 ")


@pytest.mark.rfc("7672-1-b")
async def test_a_mismatch_waits_and_then_comes_back_with_the_reason(scene: Scene, lab: Lab) -> None:
    await lab.domain("shop.test", mx=[(MX, 10, None)], policy=PolicySite(mode="enforce", mx=(MX,)))
    lab.dns.sign("shop.test")
    publish(lab, MX, right=False)
    scene.configure('[queue]\nretry = ["1s"]\nexpire_refused_after = "2s"\n')
    async with scene.relay:
        queue_id = await scene.send("bob@shop.test")
        deferred = await scene.settled(queue_id, "deferred")
        await scene.settled(queue_id, "failed")
        (ndr,) = await scene.ndrs()
        _, text = await scene.http("/metrics")
    assert (deferred["status"], deferred["refused_by_policy"]) == ("4.7.323", True)
    assert not lab.hosts[MX].messages
    _, per_recipient = status_fields(ndr)
    assert (per_recipient["action"], per_recipient["status"]) == ("failed", "5.7.323")
    assert f"no TLSA record of {MX} matches" in str(ndr)
    assert 'mta_sts_relay_enforcement_failures_total{mode="dane",type="validation-failure"}' in text


async def test_a_bogus_answer_for_one_host_leaves_the_other(scene: Scene, lab: Lab) -> None:
    await lab.domain("shop.test", mx=[(MX, 10, None), (SPARE, 20, SELF_SIGNED)])
    lab.dns.sign("shop.test")
    publish(lab, SPARE)
    lab.dns.override(f"_{lab.smtp_port}._tcp.{MX}", "TLSA", DnsFault.BOGUS)
    async with scene.relay:
        told = await scene.settled(await scene.send("bob@shop.test"), "delivered")
        status, out, _ = await scene.cli("check", "shop.test")
    assert (told["mx"], told["security"]) == (SPARE, "dane")
    assert lab.hosts[MX].sessions == []
    assert status == 0
    assert f"{MX}: TLSA records not known: " in out


async def test_without_dnssec_or_with_dane_off_nothing_changes(scene: Scene, lab: Lab) -> None:
    await lab.domain("shop.test", mx=[(MX, 10, None)])
    publish(lab, MX, right=False)
    async with scene.relay:
        told = await scene.settled(await scene.send("bob@shop.test"), "delivered")
    assert (told["security"], told["dane"]) == ("opportunistic", None)
    lab.dns.sign("shop.test")
    scene.configure('[dane]\nmode = "off"\n')
    async with scene.relay:
        told = await scene.settled(await scene.send("bob@shop.test"), "delivered")
        _, text = await scene.http("/metrics")
    assert (told["security"], told["dane"]) == ("opportunistic", None)
    assert "mta_sts_relay_dane_active 0.0" in text


@pytest.mark.rfc("7672-2.1.1-b")
async def test_a_resolver_whose_word_does_not_count_is_warned_of(scene: Scene, lab: Lab) -> None:
    scene.configure(replace=("[dns]", "[dns]\ntrust_ad = false"))
    async with scene.relay:
        told = await scene.relay.wait_for(is_event("dane.inactive"), 20)
        _, text = await scene.http("/metrics")
    assert told["level"].lower() == "warning"
    assert "mta_sts_relay_dane_active 0.0" in text

"""The main job, end to end: submitted over SMTP, committed, policy enforced, delivered or answered by an NDR."""

import asyncio
import shutil

import pytest
from e2e_scene import QUICK_RETRIES, Scene, is_event, parsed, status_fields

from relay.lab.ca import CertificateKind
from relay.lab.dns import DnsFault
from relay.lab.internet import Lab
from relay.lab.mx_behaviour import MxBehaviour, Phase
from relay.lab.policy_host import PolicySite

ENFORCE = PolicySite(mode="enforce", mx=("mx1.shop.test",), id="1")


async def test_mail_for_an_enforced_domain_is_delivered_verified(scene: Scene, lab: Lab) -> None:
    await lab.domain("shop.test", mx=[("mx1.shop.test", 10, None)], policy=ENFORCE)
    async with scene.relay:
        queue_id = await scene.send("bob@shop.test", subject="verified")
        (message,) = await lab.hosts["mx1.shop.test"].wait_for_messages(1)
        told = await scene.settled(queue_id, "delivered")
        assert message.tls
        assert message.session.sni == "mx1.shop.test"
        assert lab.hosts["mx1.shop.test"].violations == []
        assert parsed(message)["subject"] == "verified"
        assert queue_id in parsed(message)["received"]
        assert (told["security"], told["mx"], told["policy_mode"]) == ("sts", "mx1.shop.test", "enforce")
        status, text = await scene.http("/metrics")
    assert status == 200
    assert 'mta_sts_relay_deliveries_total{security="sts",tls_version="TLSv1.3"} 1.0' in text
    assert 'mta_sts_relay_recipients_total{outcome="delivered",status_class="2"} 1.0' in text
    assert 'mta_sts_relay_policy_lookups_total{mode="enforce",result="fetched"} 1.0' in text
    assert 'mta_sts_relay_policy_changes_total{change="new",mode="enforce"} 1.0' in text
    assert 'mta_sts_relay_dns_lookups_total{result="found",type="MX"}' in text


async def test_the_ndr_of_a_refused_certificate_comes_back(scene: Scene, lab: Lab) -> None:
    await lab.domain(
        "shop.test",
        mx=[("mx1.shop.test", 10, MxBehaviour(certificate=CertificateKind.SELF_SIGNED))],
        policy=ENFORCE,
    )
    scene.configure('[queue]\nretry = ["1s"]\nexpire_refused_after = "2s"\n')
    async with scene.relay:
        queue_id = await scene.send("bob@shop.test")
        deferred = await scene.settled(queue_id, "deferred")
        await scene.settled(queue_id, "failed")
        (ndr,) = await scene.ndrs()
    assert deferred["status"] == "4.7.5"
    assert not lab.hosts["mx1.shop.test"].messages
    assert str(ndr["to"]) == "alice@legacy.test"
    _, per_recipient = status_fields(ndr)
    assert (per_recipient["action"], per_recipient["status"]) == ("failed", "5.7.5")


async def test_an_unknown_user_is_answered_at_once(scene: Scene, lab: Lab) -> None:
    behaviour = MxBehaviour(replies={Phase.RCPT: "550 5.1.1 \x1b[31mNo such user"})
    await lab.domain("shop.test", mx=[("mx1.shop.test", 10, behaviour)])
    async with scene.relay:
        queue_id = await scene.send("bob@shop.test")
        (ndr,) = await scene.ndrs()
        _, shown, _ = await scene.cli("queue", "show", queue_id)
    assert "\x1b" not in shown
    assert "No such user" in shown
    per_message, per_recipient = status_fields(ndr)
    assert per_message["reporting-mta"] == "dns; relay.legacy.test"
    assert per_recipient["status"] == "5.1.1"
    assert "\x1b" not in ndr.as_string()


async def test_two_domains_of_one_message_have_their_own_fate(scene: Scene, lab: Lab) -> None:
    await lab.domain("shop.test", mx=[("mx1.shop.test", 10, None)], policy=ENFORCE)
    await lab.domain("bank.test", mx=[("mx1.bank.test", 10, MxBehaviour(offers_starttls=False))])
    lab.dns.null_mx("null.test")
    async with scene.relay:
        await scene.send("bob@shop.test", "bob@bank.test", "bob@null.test")
        await lab.hosts["mx1.shop.test"].wait_for_messages(1)
        (plain,) = await lab.hosts["mx1.bank.test"].wait_for_messages(1)
        (ndr,) = await scene.ndrs()
    assert not plain.tls
    assert [group["final-recipient"] for group in status_fields(ndr)[1:]] == ["rfc822; bob@null.test"]


async def test_a_stranger_may_not_relay(scene: Scene) -> None:
    scene.configure(QUICK_RETRIES + '[access]\nnetworks = ["192.0.2.0/24"]\n')
    async with scene.relay:
        refused = await scene.offer("bob@shop.test")
    assert str(refused.mail).startswith("550 5.7.64 ")


async def test_mail_is_delivered_after_a_restart_with_a_full_queue(scene: Scene, lab: Lab) -> None:
    await lab.domain("shop.test", mx=[("mx1.shop.test", 10, None)])
    lab.dns.override("shop.test", "MX", DnsFault.SERVFAIL)
    async with scene.relay:
        ids = await asyncio.gather(*(scene.send("bob@shop.test", subject=f"n{number}") for number in range(20)))
        for queue_id in ids:
            await scene.settled(queue_id, "deferred")
    lab.dns.override("shop.test", "MX", None)
    async with scene.relay:
        messages = await lab.hosts["mx1.shop.test"].wait_for_messages(20, 30)
    assert {parsed(one)["subject"] for one in messages} == {f"n{number}" for number in range(20)}
    assert len(messages) == 20


async def test_an_ndr_that_could_not_arrive_is_warned_of(scene: Scene, lab: Lab) -> None:
    scene.configure(QUICK_RETRIES, ndr_route=False)
    lab.dns.null_mx("legacy.test")
    async with scene.relay:
        warned = await scene.relay.wait_for(is_event("ndr.no_route"))
        assert (warned["domain"], warned["setting"]) == ("legacy.test", "ndr.route")
        _, text = await scene.http("/metrics")
    assert "mta_sts_relay_ndr_route_warnings 1.0" in text


@pytest.mark.real
async def test_promtool_has_nothing_to_say_about_a_relay_at_work(scene: Scene, lab: Lab) -> None:
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("promtool is not installed (make apt)")
    await lab.domain("shop.test", mx=[("mx1.shop.test", 10, None)], policy=ENFORCE)
    async with scene.relay:
        await scene.settled(await scene.send("bob@shop.test"), "delivered")
        _, text = await scene.http("/metrics")
        status, openmetrics = await scene.http("/metrics", "application/openmetrics-text")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(promtool, "check", "metrics", stdin=pipe, stdout=pipe, stderr=pipe)
    out, err = await process.communicate(text.encode())
    assert (process.returncode, out, err) == (0, b"", b"")
    assert (status, openmetrics.endswith("# EOF\n")) == (200, True)

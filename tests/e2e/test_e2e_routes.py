"""Routes of the operator's, from config.toml to the hosts of the lab."""

import json
import os
import signal
from datetime import UTC, datetime, timedelta

import pytest
from e2e_scene import QUICK_RETRIES, Scene, is_event, parsed, status_fields

from relay.lab.ca import CertificateKind
from relay.lab.internet import Lab
from relay.lab.mx_behaviour import MxBehaviour
from relay.lab.policy_host import PolicySite
from relay.lab.relay_process import RelayProcess

SELF_SIGNED = MxBehaviour(certificate=CertificateKind.SELF_SIGNED)


def route(domains: str, **keys: object) -> str:
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    return "\n".join(["[[route]]", f'domains = ["{domains}"]', *lines, ""])


@pytest.mark.rfc("8461-3.4-a", "8461-3.4-b")
async def test_mail_for_the_organisations_own_domain_goes_back_to_the_legacy_server(scene: Scene, lab: Lab) -> None:
    """The MX record of the own domain leads elsewhere, and its policy is for those who deliver from outside."""
    legacy = await lab.host("exchange.corp.test", MxBehaviour(offers_starttls=False))
    await lab.domain(
        "corp.test",
        mx=[("mx.corp.test", 10, None)],
        policy=PolicySite(mode="enforce", mx=("mx.corp.test",)),
    )
    hop = f"smtp://{legacy.address}:{lab.smtp_port}"
    scene.configure(QUICK_RETRIES + route("corp.test", next_hop=[hop]))
    async with scene.relay:
        done = await scene.settled(await scene.send("bob@corp.test"), "delivered")
    assert (done["mx"], done["security"], done["policy_id"]) == (legacy.address, "plaintext", None)
    assert not lab.hosts["mx.corp.test"].sessions
    assert not lab.policy_hosts.requests


@pytest.mark.rfc("4954-4-c", "4954-5-b")
async def test_a_partners_smarthost_with_auth_and_implicit_tls(scene: Scene, lab: Lab) -> None:
    takes = MxBehaviour(implicit_tls=True, logins={"us": "correct horse"}, certificate_names=("smtp.partner.test",))
    hop = await lab.host("in.partner.test", takes)
    (scene.directory / "partner.password").write_text("correct horse\n", encoding="utf-8")
    scene.configure(
        QUICK_RETRIES
        + route(
            "*.partner.test",
            next_hop=[f"smtps://in.partner.test:{lab.smtp_port}"],
            user="us",
            password="file:partner.password",
            tls="verify-name",
            tls_name="smtp.partner.test",
        )
    )
    async with scene.relay as relay:
        done = await scene.settled(await scene.send("bob@sales.partner.test"), "delivered")
        assert (done["mx"], done["security"]) == ("in.partner.test", "route")
        _, text = await scene.http("/metrics")
        assert 'mta_sts_relay_deliveries_total{security="route",tls_version="TLSv1.3"} 1.0' in text

        # The password is changed at the partner's; a wrong one waits and is said to be wrong, then SIGHUP reads it.
        hop.behaviour = MxBehaviour(
            implicit_tls=True, logins={"us": "battery staple"}, certificate_names=("smtp.partner.test",)
        )
        hop.hang_up()
        queue_id = await scene.send("bob@sales.partner.test")
        waits = await scene.settled(queue_id, "deferred")
        assert (waits["status"], "535 5.7.8" in str(waits["diagnostic"])) == ("4.7.8", True)
        assert waits["refused_by_policy"] is False
        (scene.directory / "partner.password").write_text("battery staple\n", encoding="utf-8")
        relay.send_signal(signal.SIGHUP)
        await relay.wait_for(is_event("config.reloaded"))
        await scene.settled(queue_id, "delivered")
        shown = await scene.cli("config", "show")
        for text in (relay.log_end(10_000), *map(str, shown), (await scene.cli("queue", "show", queue_id))[1]):
            assert "correct horse" not in text
            assert "battery staple" not in text
    assert hop.violations == []


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_password_from_the_environment(scene: Scene, lab: Lab, workers: int) -> None:
    await lab.host("in.partner.test", MxBehaviour(logins={"us": "correct horse"}))
    hop = f"smtp://in.partner.test:{lab.smtp_port}"
    scene.configure(
        QUICK_RETRIES + route("partner.test", next_hop=[hop], user="us", password="env:PARTNER", tls="verify"),
        replace=("[relay]", f"[relay]\nworkers = {workers}"),
    )
    scene.relay = RelayProcess(scene.config, environ={**os.environ, "PARTNER": "correct horse"})
    async with scene.relay:
        await scene.settled(await scene.send("bob@partner.test"), "delivered")
    assert lab.hosts["in.partner.test"].sessions[0].user == "us"


async def test_next_hops_in_order_with_the_first_down(scene: Scene, lab: Lab) -> None:
    lab.down_host("first.test")
    await lab.host("second.test", SELF_SIGNED)
    await lab.domain("third.test", mx=[("mx.third.test", 10, None)])
    hops = [f"smtp://first.test:{lab.smtp_port}", f"smtp://second.test:{lab.smtp_port}", "mx://third.test"]
    scene.configure(QUICK_RETRIES + route("*", next_hop=hops, tls="verify"))
    async with scene.relay:
        done = await scene.settled(await scene.send("bob@anywhere.test"), "delivered")
        assert (done["mx"], done["security"]) == ("mx.third.test", "route")
        status, text, _ = await scene.cli("check", "anywhere.test", "--connect")
        said = " ".join(text.split())
        assert status == 0
        assert "next hop 1: smtp://first.test" in said
        assert "next hop 3: mx://third.test" in said
        found = await scene.cli_json("check", "anywhere.test", "--connect")
        ways = [found, *found["others"]]
        assert [way["deliverable"] for way in (ways[1], ways[2])] == [False, True]
        assert ways[1]["hosts"][0]["connections"][0]["failure"]["kind"] == "route-certificate"
    assert not lab.hosts["second.test"].messages


async def test_a_certificate_for_another_name_is_refused_and_the_sender_is_told(scene: Scene, lab: Lab) -> None:
    await lab.domain("x.test", mx=[("mx.x.test", 10, None)])
    settings = QUICK_RETRIES + 'expire_refused_after = "3s"\n'
    scene.configure(settings + route("x.test", tls="verify-name", tls_name="mail.x.test"))
    async with scene.relay:
        queue_id = await scene.send("bob@x.test")
        waits = await scene.settled(queue_id, "deferred")
        assert (waits["status"], waits["refused_by_policy"]) == ("4.7.320", True)
        assert waits["policy_breach"] == "route-certificate"
        failed = await scene.settled(queue_id, "failed")
        assert failed["status"] == "5.7.320"
        (ndr,) = await scene.ndrs()
        assert status_fields(ndr)[1]["Status"] == "5.7.320"
        assert "as your own organisation has" in " ".join(str(ndr.get_body(("plain",))).split())
        _, text = await scene.http("/metrics")
        assert 'enforcement_failures_total{mode="route",type="certificate-host-mismatch"}' in text
    assert not lab.hosts["mx.x.test"].messages


async def test_mandatory_without_a_policy_delivers_nothing_until_there_is_one(scene: Scene, lab: Lab) -> None:
    domain = await lab.domain("x.test", mx=[("mx.x.test", 10, None)])
    scene.configure(QUICK_RETRIES + route("x.test", mta_sts="mandatory"))
    async with scene.relay:
        queue_id = await scene.send("bob@x.test")
        waits = await scene.settled(queue_id, "deferred")
        assert (waits["status"], "mta-sts-required" in str(waits["diagnostic"])) == ("4.7.320", True)
        assert not lab.hosts["mx.x.test"].sessions
        domain.publish(PolicySite(mode="testing", mx=("mx.x.test",)))
        done = await scene.settled(queue_id, "delivered")
        assert (done["security"], done["policy_mode"]) == ("sts", "testing")


async def test_exceptions_are_told_at_start_counted_and_shown_and_those_that_have_ended_enforce(
    scene: Scene, lab: Lab
) -> None:
    for name in ("open.test", "over.test"):
        policy = PolicySite(mode="enforce", mx=(f"mx.{name}",))
        await lab.domain(name, mx=[(f"mx.{name}", 10, SELF_SIGNED)], policy=policy)
    today = datetime.now(UTC).date()
    reason = "their CA has gone out of business"
    scene.configure(
        QUICK_RETRIES
        + route("open.test", mta_sts="off", reason=reason, until=str(today + timedelta(days=1)))
        + route("over.test", mta_sts="off", reason=reason, until=str(today - timedelta(days=1)))
    )
    await lab.domain("free.test", mx=[("mx.free.test", 10, None)])
    async with scene.relay as relay:
        told = await relay.wait_for(is_event("route.weakening", route="open.test"))
        assert (told["turns_off"], told["reason"], told["level"]) == ("mta_sts", reason, "warning")
        assert str(told["ends_at"]).startswith(str(today + timedelta(days=2)))
        await relay.wait_for(is_event("route.weakening_ended", route="over.test"))
        soon = await relay.wait_for(is_event("route.weakening_ends", route="open.test", level="warning"))
        assert (soon["days_left"], soon["then"]) in {(2, "mta_sts enforce"), (1, "mta_sts enforce")}, "or midnight came"

        queue_id = await scene.send("bob@open.test")
        done = await scene.settled(queue_id, "delivered")
        assert (done["route"], done["security"]) == ("open.test", "opportunistic"), "it is encrypted all the same"
        await relay.wait_for(is_event("delivery.weakened", queue_id=queue_id, reason=reason))
        assert "  route open.test\n" in (await scene.cli("queue", "show", queue_id))[1]
        assert "route" not in await scene.settled(await scene.send("bob@free.test"), "delivered")
        waits = await scene.settled(await scene.send("bob@over.test"), "deferred")
        assert waits["status"] == "4.7.5"
        _, text = await scene.http("/metrics")
        assert 'mta_sts_relay_route_weakenings_total{weakens="mta_sts"} 1.0' in text

    _, text, _ = await scene.cli("config", "check")
    assert "warning: route open.test: mta_sts is off until the end of" in " ".join(text.split())
    assert "over.test" not in text
    status, text, _ = await scene.cli("check", "open.test")
    assert status == 0
    assert "mta_sts is off" in text
    assert reason in text
    assert str(today + timedelta(days=1)) in text
    found = await scene.cli_json("check", "open.test")
    assert found["route"]["weakening"]["reason"] == reason
    status, text, _ = await scene.cli("check", "over.test", "--connect")
    assert (status, "mta_sts is off" in text) == (1, False)


async def test_notices_take_a_route_and_config_check_knows_it(scene: Scene, lab: Lab) -> None:
    """The sender's own domain has no MX record outside: without the route an NDR could not be delivered."""
    inside = await lab.host("exchange.inside.test")
    await lab.domain("x.test", mx=[("mx.x.test", 10, MxBehaviour(replies={}))])
    settings = QUICK_RETRIES + '[access]\nsender_domains = ["inside.test", "legacy.test"]\n'
    scene.configure(settings, ndr_route=False)
    _, text, _ = await scene.cli("config", "check")
    assert "an NDR to inside.test would not arrive" in text
    hop = f"smtp://exchange.inside.test:{lab.smtp_port}"
    scene.configure(settings + route("inside.test", next_hop=[hop]), ndr_route=False)
    _, text, _ = await scene.cli("config", "check")
    assert "inside.test would not arrive" not in text
    async with scene.relay:
        await scene.send("bob@nowhere.test", sender="alice@inside.test")
        (ndr,) = await inside.wait_for_messages(1, 20)
        assert parsed(ndr)["Auto-Submitted"]


async def test_a_bad_route_stops_no_running_relay_and_says_all_that_is_wrong(scene: Scene) -> None:
    scene.configure(QUICK_RETRIES)
    async with scene.relay as relay:
        scene.configure(QUICK_RETRIES + route("x.test", mta_sts="off", tls="verify-name", password="hunter2"))
        relay.send_signal(signal.SIGHUP)
        said = str((await relay.wait_for(is_event("config.rejected")))["problems"])
        for word in ("mta_sts", "tls_name", "password"):
            assert f"route[1].{word}" in said
        assert "hunter2" not in relay.log_end(1000)
    status, _, text = await scene.cli("config", "check")
    assert (status, "route[1].mta_sts" in text) == (2, True)

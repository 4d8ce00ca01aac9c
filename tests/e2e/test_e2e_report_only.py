"""The same mail to the same faulty domains, in mode enforce and in report-only, and the report of both."""

import signal

import pytest
from e2e_scene import QUICK_RETRIES, Scene, is_event

from relay.lab.ca import CertificateKind
from relay.lab.internet import Lab
from relay.lab.mx_behaviour import Handshake, MxBehaviour
from relay.lab.policy_host import PolicySite

FAULTS = {
    "expired": MxBehaviour(certificate=CertificateKind.EXPIRED),
    "other-name": MxBehaviour(certificate=CertificateKind.WRONG_NAME),
    "self-signed": MxBehaviour(certificate=CertificateKind.SELF_SIGNED),
    "no-starttls": MxBehaviour(offers_starttls=False),
    "alert": MxBehaviour(handshake=Handshake.ALERT),
    "not-named": MxBehaviour(),
}
REASONS = {
    "expired": "certificate-expired",
    "other-name": "certificate-host-mismatch",
    "self-signed": "certificate-not-trusted",
    "no-starttls": "starttls-not-supported",
    "alert": "validation-failure",
    "not-named": "mx-not-in-policy",
}


@pytest.mark.rfc("8461-5-c", "8461-5-d")
async def test_report_only_delivers_and_tells_exactly_what_enforce_refuses(scene: Scene, lab: Lab) -> None:
    for name, behaviour in FAULTS.items():
        mx = f"mx.{name}.test"
        named = "mx.elsewhere.test" if name == "not-named" else mx
        await lab.domain(f"{name}.test", mx=[(mx, 10, behaviour)], policy=PolicySite(mode="enforce", mx=(named,)))
    await lab.domain(
        "good.test", mx=[("mx.good.test", 10, None)], policy=PolicySite(mode="enforce", mx=("mx.good.test",))
    )
    await lab.domain("plain.test", mx=[("mx.plain.test", 10, None)])
    async with scene.relay as relay:
        ids = {name: await scene.send(f"bob@{name}.test") for name in FAULTS}
        refused = {name: await scene.settled(queue_id, "deferred") for name, queue_id in ids.items()}
        assert {name: one["policy_breach"] for name, one in refused.items()} == REASONS
        assert all(one["refused_by_policy"] for one in refused.values())
        before = await scene.cli_json("report", "enforcement")
        assert (before["mta_sts_mode"], before["total"]["refused"]) == ("enforce", len(FAULTS))

        scene.configure(QUICK_RETRIES + '[mta_sts]\nmode = "report-only"\n')
        relay.send_signal(signal.SIGHUP)
        await relay.wait_for(is_event("config.reloaded"))
        warning = await relay.wait_for(is_event("config.lax", setting="mta_sts.mode"))
        assert (warning["level"], "report enforcement" in warning["meaning"]) == ("warning", True)
        delivered = {name: await scene.settled(queue_id, "delivered") for name, queue_id in ids.items()}
        assert {name: one["policy_breach"] for name, one in delivered.items()} == REASONS
        assert not any(one["refused_by_policy"] for one in delivered.values())
        for domain in ("good.test", "plain.test"):
            done = await scene.settled(await scene.send(f"bob@{domain}"), "delivered")
            assert done["policy_breach"] is None
        _, text = await scene.http("/metrics")
        for reason in {"certificate-expired", "starttls-not-supported"}:
            for mode in ("enforce", "report-only"):
                assert f'mta_sts_relay_enforcement_failures_total{{mode="{mode}",type="{reason}"}}' in text

        report = await scene.cli_json("report", "enforcement", "--days", "1")
        domains = {one["domain"]: one for one in report["domains"]}
        assert {name: domains[f"{name}.test"]["reasons"] for name in FAULTS} == {
            name: [{"standing": "would-refuse", "reason": reason, "messages": 1}] for name, reason in REASONS.items()
        }
        assert (domains["good.test"]["proven"], domains["plain.test"]["without_policy"]) == (1, 1)
        assert (report["total"]["messages"], report["total"]["would_refuse"]) == (len(FAULTS) + 2, len(FAULTS))
        status, table, _ = await scene.cli("report", "enforcement")
        assert (status, "certificate-expired 1" in table) == (0, True)


async def test_a_report_without_mail_is_1_and_without_a_queue_says_so(scene: Scene) -> None:
    status, _, said = await scene.cli("report", "enforcement")
    assert (status, "has not run there" in said) == (1, True)
    async with scene.relay:
        status, _, said = await scene.cli("report", "enforcement")
        assert (status, said) == (1, "no mail in the last 7 days\n")

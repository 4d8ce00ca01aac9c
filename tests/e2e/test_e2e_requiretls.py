"""REQUIRETLS and TLS-Required: No, end to end: from a client in TLS to hosts that keep to it, or do not (RFC 8689)."""

import signal
import ssl
from typing import Any

import pytest
from e2e_scene import QUICK_RETRIES, Scene, is_event, status_fields

from relay.lab.ca import CertificateKind
from relay.lab.client import Submission, submit
from relay.lab.internet import Lab
from relay.lab.mx_behaviour import WITH_REQUIRETLS, MxBehaviour
from relay.lab.policy_host import PolicySite
from relay.lab.relay_process import HOSTNAME, lab_config
from relay.lab.scenario import SENDER, SENDER_MX

MX, SPARE = "mx1.shop.test", "mx2.shop.test"
KEEPS_IT = MxBehaviour(keywords_in_tls=WITH_REQUIRETLS)
ENFORCE = PolicySite(mode="enforce", mx=(MX, SPARE))
SECRET = "the body that is nobody's business"
PLAIN, NO = "", "TLS-Required: No\r\n"


def configure(scene: Scene, extra: str = QUICK_RETRIES) -> None:
    lab = scene.lab
    route = f"smtp://{lab.hosts[SENDER_MX].address}:{lab.smtp_port}"
    scene.config.write_text(lab_config(lab, ndr_route=route, extra=extra, starttls=True), encoding="utf-8")


async def offer(
    scene: Scene,
    *recipients: str,
    params: str = "REQUIRETLS",
    header: str = PLAIN,
    sender: str = SENDER,
    in_tls: bool = True,
) -> Submission:
    content = f"From: <{SENDER}>\r\nSubject: hello\r\n{header}\r\n{SECRET}\r\n".encode()
    context = ssl.create_default_context(cafile=scene.lab.ca_file) if in_tls else None
    return await submit(
        scene.relay.smtp, sender, recipients, content, mail_params=params, tls=context, tls_name=HOSTNAME
    )


async def send(scene: Scene, *recipients: str, **how: Any) -> str:
    done = await offer(scene, *recipients, **how)
    assert done.accepted, done
    assert done.data is not None
    return done.data.text.rpartition(" ")[2]


async def test_it_is_kept_on_the_way_and_told(scene: Scene, lab: Lab) -> None:
    await lab.domain("shop.test", mx=[(MX, 10, None), (SPARE, 20, KEEPS_IT)], policy=ENFORCE)
    configure(scene)
    async with scene.relay:
        clear = await offer(scene, "bob@shop.test", in_tls=False)
        queue_id = await send(scene, "bob@shop.test")
        told = await scene.settled(queue_id, "delivered")
        accepted = await scene.relay.wait_for(is_event("message.accepted", queue_id=queue_id))
        plain = await scene.settled(await send(scene, "bob@shop.test", params=""), "delivered")
        _, text = await scene.http("/metrics")
        shown = await scene.cli_json("queue", "show", queue_id)
    assert str(clear.mail).startswith("530 5.7.10")
    assert (told["mx"], told["security"], told["requiretls"], accepted["requiretls"]) == (SPARE, "sts", True, True)
    (message,) = lab.hosts[SPARE].messages
    assert message.mail_parameters[-1] == "REQUIRETLS"
    (first, second) = lab.hosts[MX].sessions
    assert first.verbs() == ["EHLO", "STARTTLS", "EHLO", "QUIT"]
    assert (plain["mx"], plain.get("requiretls"), second.messages) == (MX, None, 1)
    assert "REQUIRETLS" not in lab.hosts[MX].messages[0].mail_parameters
    assert not lab.hosts[MX].violations + lab.hosts[SPARE].violations
    assert "mta_sts_relay_requiretls_messages_total 1.0" in text
    assert 'mta_sts_relay_requiretls_recipients_total{result="kept"} 1.0' in text
    assert shown[0]["require_tls"] is True


@pytest.mark.rfc("8689-4.2.1-l", "8689-5-b", "8689-5-d", "8689-5-f", "8689-5-a")
async def test_what_cannot_be_kept_comes_back_at_once_without_the_body(scene: Scene, lab: Lab) -> None:
    before_tls_only = MxBehaviour(keywords=WITH_REQUIRETLS, keywords_in_tls=("PIPELINING",))
    await lab.domain("shop.test", mx=[(MX, 10, before_tls_only), (SPARE, 20, None)], policy=ENFORCE)
    configure(scene)
    async with scene.relay:
        told = await scene.settled(await send(scene, "bob@shop.test", params="REQUIRETLS RET=FULL"), "failed")
        (ndr,) = await scene.ndrs()
        lab.hosts[SENDER_MX].behaviour = KEEPS_IT
        lab.hosts[SENDER_MX].hang_up()
        await scene.settled(await send(scene, "bob@shop.test"), "failed")
        await scene.ndrs(2)
    assert told["status"] == "5.7.30"
    _, per_recipient = status_fields(ndr)
    assert (per_recipient["action"], per_recipient["status"]) == ("failed", "5.7.30")
    assert SECRET not in str(ndr)
    assert "Subject: hello" in str(ndr)
    assert not lab.hosts[MX].messages
    assert "MAIL" not in [verb for host in (MX, SPARE) for one in lab.hosts[host].sessions for verb in one.verbs()]
    without, with_it = lab.hosts[SENDER_MX].messages
    assert (without.reverse_path, "REQUIRETLS" in without.mail_parameters) == ("", False)
    assert ("REQUIRETLS" in with_it.mail_parameters, lab.hosts[SENDER_MX].violations) == (True, [])


@pytest.mark.rfc("8689-4.1-a", "8689-4.2.1-n")
async def test_it_is_still_known_after_a_restart(scene: Scene, lab: Lab) -> None:
    """The process is killed while the message waits for hosts that are down; those that come up do not keep to it."""
    domain = await lab.domain("shop.test", mx=[(MX, 10, None)], policy=ENFORCE)
    address = lab.hosts[MX].address
    lab.down_host(MX)
    configure(scene)
    async with scene.relay:
        queue_id = await send(scene, "bob@shop.test")
        deferred = await scene.settled(queue_id, "deferred")
        await scene.relay.kill()
        lab.dns.a(MX, address)
        first = len(scene.relay.events)
        await scene.relay.start()
        told = await scene.relay.wait_for(is_event("recipient.failed", queue_id=queue_id), 20, first)
    assert deferred["status"] == "4.4.316"
    assert told["status"] == "5.7.30"
    assert domain.messages() == []


@pytest.mark.rfc("8689-5-d", "8689-4.2.1-j")
async def test_a_clients_own_notice_goes_on_either_way(scene: Scene, lab: Lab) -> None:
    await lab.domain("shop.test", mx=[(MX, 10, None)])
    await lab.domain("keeps.test", mx=[("mx1.keeps.test", 10, KEEPS_IT)])
    configure(scene)
    async with scene.relay:
        queue_id = await send(scene, "bob@shop.test", "bob@keeps.test", sender="")
        for domain in ("shop.test", "keeps.test"):
            event = is_event("recipient.delivered", queue_id=queue_id, destination=domain)
            assert (await scene.relay.wait_for(event))["security"] == "opportunistic"
    (lost,), (kept,) = lab.domains["shop.test"].messages(), lab.domains["keeps.test"].messages()
    assert ("REQUIRETLS" in lost.mail_parameters, "REQUIRETLS" in kept.mail_parameters) == (False, True)


BAD = MxBehaviour(certificate=CertificateKind.EXPIRED)


@pytest.mark.rfc("8689-3-g", "8689-3-h")
async def test_tls_required_no_weakens_nothing_unless_the_operator_says_so(scene: Scene, lab: Lab) -> None:
    await lab.domain("shop.test", mx=[(MX, 10, BAD)], policy=ENFORCE)
    configure(scene)
    async with scene.relay:
        queue_id = await send(scene, "bob@shop.test", params="", header=NO)
        deferred = await scene.settled(queue_id, "deferred")
        seen = await scene.relay.wait_for(is_event("message.tls_required_no", queue_id=queue_id))
        _, text = await scene.http("/metrics")
    assert (deferred["status"], seen["result"], seen["level"].lower()) == ("4.7.5", "ignored", "info")
    assert 'mta_sts_relay_tls_required_no_total{result="ignored"} 1.0' in text
    assert not lab.hosts[MX].messages


@pytest.mark.rfc("8689-3-c", "8689-3-d", "8689-4.2.2-a", "8689-4.2.2-d", "8689-4.1-b", "8689-4.1-c")
async def test_honoured_it_gets_mail_to_hosts_that_a_policy_refuses(scene: Scene, lab: Lab) -> None:
    await lab.domain("shop.test", mx=[(MX, 10, BAD)], policy=ENFORCE)
    await lab.domain("bare.test", mx=[("mx1.bare.test", 10, MxBehaviour(offers_starttls=False))], policy=PolicySite())
    configure(scene, QUICK_RETRIES + '[requiretls]\ntls_required_no = "honour"\n')
    async with scene.relay:
        queue_id = await send(scene, "bob@shop.test", params="", header=NO)
        told = await scene.settled(queue_id, "delivered")
        seen = await scene.relay.wait_for(is_event("message.tls_required_no", queue_id=queue_id))
        bare = await scene.settled(await send(scene, "bob@bare.test", params="", header=NO), "delivered")
        both = await scene.settled(await send(scene, "bob@shop.test", header=NO), "deferred")
    assert (told["security"], told["policy_breach"]) == ("opportunistic", "certificate-expired")
    assert (seen["result"], seen["level"].lower()) == ("honoured", "warning")
    assert (bare["security"], both["status"]) == ("plaintext", "4.7.5")
    (message,) = lab.hosts[MX].messages
    assert b"TLS-Required: No\r\n" in message.content


@pytest.mark.rfc("8689-2-g")
async def test_switched_off_it_is_not_offered_until_it_is_on_again(scene: Scene, lab: Lab) -> None:
    configure(scene, '[requiretls]\nmode = "off"\n')
    async with scene.relay:
        refused = await offer(scene, "bob@shop.test")
        configure(scene)
        scene.relay.send_signal(signal.SIGHUP)
        await scene.relay.wait_for(is_event("config.reloaded"))
        taken = await offer(scene, "bob@shop.test")
    assert "REQUIRETLS" not in refused.ehlo.lines
    assert refused.mail.code == 555
    assert "REQUIRETLS" in taken.ehlo.lines
    assert taken.accepted

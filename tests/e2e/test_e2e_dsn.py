"""Delivery status notifications and the null reverse-path, end to end: what comes in is passed on or kept here."""

import quopri

import pytest
from e2e_scene import Scene, is_event, parsed, status_fields

from relay.lab.client import Submission, submit
from relay.lab.internet import Lab
from relay.lab.mx_behaviour import STANDARD_KEYWORDS, MxBehaviour, Phase
from relay.lab.scenario import SENDER, SENDER_MX

CONTENT = b"From: <alice@legacy.test>\r\nSubject: hello\r\n\r\nHello.\r\n"
NO_DSN = MxBehaviour(keywords=tuple(one for one in STANDARD_KEYWORDS if one != "DSN"))
NO_SMTPUTF8 = MxBehaviour(keywords=tuple(one for one in STANDARD_KEYWORDS if one != "SMTPUTF8"))
UNKNOWN_USER = MxBehaviour(replies={Phase.RCPT: "550 5.1.1 No such user"})


async def _submit(
    scene: Scene, sender: str, recipient: str, mail: str = "", rcpt: str = "", content: bytes = CONTENT
) -> tuple[Submission, str]:
    """Submit a message, which must be taken, and return its replies and its queue id."""
    done = await submit(scene.relay.smtp, sender, [recipient], content, mail_params=mail, rcpt_params=[rcpt])
    assert done.accepted, done
    assert done.data is not None
    return done, done.data.text.rpartition(" ")[2]


@pytest.mark.rfc("3461-5-a")
async def test_dsn_is_offered_and_both_its_sides_are_kept(scene: Scene, lab: Lab) -> None:
    """As a client, the parameters go on to a host that knows them; as a server, the relay answers for one without."""
    await lab.domain("shop.test", mx=[("mx1.shop.test", 10, None)])
    await lab.domain("bank.test", mx=[("mx1.bank.test", 10, NO_DSN)])
    mail, rcpt = "RET=HDRS ENVID=e+2D1", "NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;bobby@shop.test"
    async with scene.relay:
        done, _ = await _submit(scene, SENDER, "bob@shop.test", mail, rcpt)
        (passed_on,) = await lab.hosts["mx1.shop.test"].wait_for_messages(1)
        _, relayed_id = await _submit(scene, SENDER, "bob@bank.test", mail, rcpt)
        (report,) = await scene.ndrs()
        await scene.settled(relayed_id, "delivered")
    assert "DSN" in done.ehlo.lines
    assert {"RET=HDRS", "ENVID=e+2D1"} <= set(passed_on.mail_parameters)
    assert set(passed_on.recipients[0].parameters) == set(rcpt.split())
    (without,) = lab.hosts["mx1.bank.test"].messages
    assert not any(one.startswith(("RET=", "ENVID=")) for one in without.mail_parameters)
    per_message, per_recipient = status_fields(report)
    assert per_message["original-envelope-id"] == "e-1"
    assert per_recipient["action"] == "relayed"
    assert per_recipient["original-recipient"] == "rfc822; bobby@shop.test"


@pytest.mark.rfc("5321-4.5.5-a")
async def test_the_null_reverse_path_stays_null_and_is_never_answered(scene: Scene, lab: Lab) -> None:
    await lab.domain("shop.test", mx=[("mx1.shop.test", 10, None)])
    await lab.domain("bank.test", mx=[("mx1.bank.test", 10, UNKNOWN_USER)])
    async with scene.relay:
        await _submit(scene, "", "bob@shop.test")
        (message,) = await lab.hosts["mx1.shop.test"].wait_for_messages(1)
        _, refused_id = await _submit(scene, "", "bob@bank.test", rcpt="NOTIFY=SUCCESS,FAILURE,DELAY")
        await scene.relay.wait_for(is_event("queue.double_bounce", queue_id=refused_id))
        (shown,) = await scene.cli_json("queue", "show", refused_id)
    assert message.reverse_path == ""
    assert lab.hosts[SENDER_MX].messages == []
    assert (shown["state"], shown["hold_reason"]) == ("held", "double-bounce")


@pytest.mark.rfc("6531-3.2-n")
async def test_smtputf8_with_dsn_brings_an_internationalised_notification(scene: Scene, lab: Lab) -> None:
    await lab.domain("bank.test", mx=[("mx1.bank.test", 10, UNKNOWN_USER)])
    async with scene.relay:
        done, _ = await _submit(scene, SENDER, "bücher@bank.test", "SMTPUTF8", "ORCPT=utf-8;bücher@bank.test")
        (arrived,) = await lab.hosts[SENDER_MX].wait_for_messages(1, 30)
    assert {"DSN", "SMTPUTF8"} <= set(done.ehlo.lines)
    (report,) = [part for part in parsed(arrived).walk() if part.get_content_type() == "message/global-delivery-status"]
    assert "Original-Recipient: utf-8; bücher@bank.test" in quopri.decodestring(report.as_bytes()).decode()
    assert arrived.content.isascii(), "the sender has an ASCII address: any host of its own can take the notification"


@pytest.mark.rfc("6533-4.5-b")
async def test_a_notification_that_its_receiver_cannot_take_is_kept(scene: Scene, lab: Lab) -> None:
    """The sender's own server does not support the sender's address: the notification becomes a dead letter."""
    await lab.domain("bank.test", mx=[("mx1.bank.test", 10, UNKNOWN_USER)])
    await lab.domain("legacy2.test", mx=[("mx1.legacy2.test", 10, NO_SMTPUTF8)])
    scene.configure('[queue]\nretry = ["1s"]\n', ndr_route=False)
    async with scene.relay:
        await _submit(scene, "älice@legacy2.test", "bob@bank.test", "SMTPUTF8")
        held = await scene.relay.wait_for(is_event("queue.double_bounce"))
        (shown,) = await scene.cli_json("queue", "show", str(held["queue_id"]))
    assert lab.hosts["mx1.legacy2.test"].messages == []
    assert (shown["reverse_path"], shown["state"]) == ("", "held")


@pytest.mark.rfc("9422-6-a")
async def test_a_silly_limit_only_makes_it_slower(scene: Scene, lab: Lab) -> None:
    """RCPTMAX=1 costs a transaction for each recipient, one after another, and not a connection for each."""
    await lab.domain("shop.test", mx=[("mx1.shop.test", 10, MxBehaviour(recipients_max=1))])
    people = [f"r{number}@shop.test" for number in range(30)]
    async with scene.relay:
        done = await submit(scene.relay.smtp, SENDER, people, CONTENT)
        assert done.accepted
        messages = await lab.hosts["mx1.shop.test"].wait_for_messages(30)
    assert sorted(message.forward_paths[0] for message in messages) == sorted(people)
    assert len(lab.hosts["mx1.shop.test"].sessions) == 1
    assert lab.hosts["mx1.shop.test"].violations == []

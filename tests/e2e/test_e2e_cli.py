"""The command line beside a running relay."""

import json

from e2e_scene import QUICK_RETRIES, Scene, status_fields

from relay.lab.ca import CertificateKind
from relay.lab.dns import DnsFault
from relay.lab.internet import Lab
from relay.lab.mx_behaviour import MxBehaviour
from relay.lab.policy_host import PolicySite

SLOW_RETRIES = '[queue]\nretry = ["1h"]\n'


async def _queued(scene: Scene, lab: Lab, *subjects: str) -> list[str]:
    """Send messages to a domain whose DNS is broken; return their ids. The first is tried, the others wait with it."""
    await lab.domain("shop.test", mx=[("mx1.shop.test", 10, None)])
    lab.dns.override("shop.test", "MX", DnsFault.SERVFAIL)
    first = await scene.send("bob@shop.test", subject=subjects[0])
    await scene.settled(first, "deferred")
    return [first, *[await scene.send("bob@shop.test", subject=subject) for subject in subjects[1:]]]


async def test_queue_list_show_and_retry(scene: Scene, lab: Lab) -> None:
    scene.configure(SLOW_RETRIES)
    async with scene.relay:
        first, second = await _queued(scene, lab, "one", "two")
        listed = await scene.cli_json("queue", "list", "--domain", "shop.test")
        assert {entry["queue_id"] for entry in listed} == {first, second}
        assert listed[0]["state"] == "queued"
        assert listed[0]["recipients"][0]["forward_path"] == "bob@shop.test"
        assert {entry["recipients"][0]["status"] for entry in listed} == {"", "4.4.312"}
        assert (await scene.cli("queue", "list", "--older-than", "1h"))[0] == 1
        assert (await scene.cli("queue", "list", "--state", "delivered"))[0] == 1
        (shown,) = await scene.cli_json("queue", "show", first)
        assert shown["attempts_made"][0]["number"] == 1
        status, table, _ = await scene.cli("queue", "list")
        assert status == 0
        assert first in table
        assert (await scene.cli("queue", "show", "NO-SUCH-ID"))[0] == 1
        lab.dns.override("shop.test", "MX", None)
        assert await scene.cli_json("queue", "retry", first) == {"count": 1}
        await scene.settled(first, "delivered")
        await scene.settled(second, "delivered")  # the cool-down of the destination is over for it too
        assert await scene.cli_json("queue", "retry", "--sender", "alice@legacy.test") == {"count": 0}
        assert len(await scene.cli_json("queue", "list", "--all")) == 2


async def test_queue_hold_release_and_drop(scene: Scene, lab: Lab) -> None:
    scene.configure(SLOW_RETRIES)
    async with scene.relay:
        held, dropped, silent = await _queued(scene, lab, "held", "dropped", "silent")
        assert await scene.cli_json("queue", "hold", held) == {"count": 1}
        (entry,) = await scene.cli_json("queue", "list", "--state", "held")
        assert (entry["queue_id"], entry["hold_reason"]) == (held, "operator")
        assert await scene.cli_json("queue", "drop", dropped) == {"count": 1}
        assert await scene.cli_json("queue", "drop", silent, "--silent") == {"count": 1}
        lab.dns.override("shop.test", "MX", None)
        assert await scene.cli_json("queue", "release", "--all") == {"count": 1}
        await scene.settled(held, "delivered")
        (ndr,) = await scene.ndrs()
        assert ndr["subject"] == "Undeliverable: dropped"
        assert status_fields(ndr)[1]["status"] == "5.3.2"
    assert len(lab.hosts["mx1.shop.test"].messages) == 1


async def test_queue_pause_keeps_new_mail_too(scene: Scene, lab: Lab) -> None:
    await lab.domain("shop.test", mx=[("mx1.shop.test", 10, None)])
    async with scene.relay:
        assert (await scene.cli("queue", "pause", "--domain", "Shop.test."))[0] == 0
        queue_id = await scene.send("bob@shop.test")
        await scene.settled(await scene.send("bob@no-such.test"), "failed")
        (entry,) = await scene.cli_json("queue", "show", queue_id)
        assert (entry["state"], entry["attempts"]) == ("queued", 0)
        assert (await scene.cli("queue", "resume", "--domain", "shop.test"))[0] == 0
        await scene.settled(queue_id, "delivered")


async def test_queue_commands_ask_which(scene: Scene) -> None:
    async with scene.relay:
        for verb in ("retry", "hold", "release", "drop"):
            status, _, err = await scene.cli("queue", verb)
            assert (status, err.startswith("say which")) == (2, True), err
        assert (await scene.cli("queue", "drop", "--older-than", "long"))[0] == 2


async def test_queue_of_a_relay_that_never_ran(scene: Scene) -> None:
    status, _, err = await scene.cli("queue", "list")
    assert status == 1
    assert "there is no queue in" in err
    assert not (scene.directory / "state").exists()


async def test_policy_list_show_refresh_and_forget(scene: Scene, lab: Lab) -> None:
    shop = await lab.domain(
        "shop.test", mx=[("mx1.shop.test", 10, None)], policy=PolicySite(mode="enforce", mx=("mx1.shop.test",), id="1")
    )
    async with scene.relay:
        assert (await scene.cli("policy", "list"))[0] == 1
        await scene.settled(await scene.send("bob@shop.test"), "delivered")
        (known,) = await scene.cli_json("policy", "list")
        assert (known["policy_domain"], known["mode"], known["id"]) == ("shop.test", "enforce", "1")
        status, table, _ = await scene.cli("policy", "list")
        assert (status, "mx1.shop.test" in table) == (0, True)
        shown = await scene.cli_json("policy", "show", "SHOP.test")
        assert shown["text"].startswith("version: STSv1")
        shop.publish(PolicySite(mode="testing", mx=("mx1.shop.test",), id="1"))
        status, said, _ = await scene.cli("policy", "refresh", "shop.test")
        assert (status, said) == (0, "shop.test: testing, id 1 (fetched)\n")
        assert (await scene.cli("policy", "refresh", "no-policy.test"))[0] == 1
        weaker, new = await scene.cli_json("policy", "history", "shop.test")
        assert (new["changes"], new["before"], new["after"]["mode"]) == (["new"], None, "enforce")
        assert (weaker["changes"], weaker["after"]["mode"]) == (["mode-weakened"], "testing")
        status, table, _ = await scene.cli("policy", "history", "shop.test")
        assert (status, "mode enforce -> testing" in table) == (0, True)
        assert (await scene.cli("policy", "history", "no-policy.test"))[0] == 1
        assert (await scene.cli("policy", "forget", "shop.test"))[0] == 0
        assert (await scene.cli("policy", "forget", "shop.test"))[0] == 1
        assert (await scene.cli("policy", "show", "shop.test"))[0] == 1


async def test_check_says_what_the_relay_would_do(scene: Scene, lab: Lab) -> None:
    bad = MxBehaviour(certificate=CertificateKind.EXPIRED)
    await lab.domain(
        "shop.test",
        mx=[("mx1.shop.test", 10, None), ("mx2.shop.test", 20, bad), ("mx3.shop.test", 30, None)],
        policy=PolicySite(mode="enforce", mx=("mx1.shop.test", "mx2.shop.test"), id="7"),
    )
    status, out, err = await scene.cli("check", "bob@Shop.test", "--json")
    assert status == 0, err
    found = json.loads(out)
    assert (found["deliverable"], found["policy"]["id"], found["policy"]["mode"]) == (True, "7", "enforce")
    assert [host["usable"] for host in found["hosts"]] == [True, True, False]
    assert found["hosts"][2]["failure"]["kind"] == "mx-not-in-policy"
    found = await scene.cli_json("check", "shop.test", "--connect")
    assert [host["usable"] for host in found["hosts"]] == [True, False, False]
    (good,), (expired,) = found["hosts"][0]["connections"], found["hosts"][1]["connections"]
    assert good["facts"]["security"] == "sts"
    assert good["facts"]["tls"]["verified"] is True
    assert expired["failure"]["tls"]["result_type"] == "certificate-expired"
    assert {"mx", "txt", "addresses", "policy"} <= {step["stage"] for step in found["look_ups"]}
    assert [step["stage"] for step in good["tries"][0]][:3] == ["connect", "greeting", "ehlo"]
    assert all(step["seconds"] >= 0 for step in good["tries"][0] if step["stage"] not in ("chain", "names"))
    (failed,) = [step for step in expired["tries"][0] if step["failed"]]
    assert (failed["stage"], "send them the words" in failed["advice"]) == ("chain", True)
    status, text, _ = await scene.cli("check", "shop.test", "--connect")
    assert (status, "mail would be delivered" in text) == (0, True)
    assert "what to do: Theirs to mend" in text
    assert not lab.hosts["mx1.shop.test"].messages
    assert all("MAIL" not in session.verbs() for host in lab.hosts.values() for session in host.sessions)
    assert not (scene.directory / "state").exists()


async def test_check_tells_bad_news_by_its_exit_status(scene: Scene, lab: Lab) -> None:
    lab.dns.null_mx("null.test")
    await lab.domain(
        "bad.test",
        mx=[("mx1.bad.test", 10, MxBehaviour(offers_starttls=False))],
        policy=PolicySite(mode="enforce", mx=("mx1.bad.test",)),
    )
    assert (await scene.cli("check", "null.test"))[0] == 1
    assert (await scene.cli("check", "bad.test"))[0] == 0
    status, text, _ = await scene.cli("check", "bad.test", "--connect")
    assert status == 1
    assert "STARTTLS" in text
    assert "for a mail to postmaster@bad.test:\n\n  Your mail host mx1.bad.test does not let us use STARTTLS" in text
    (paragraph,) = (await scene.cli_json("check", "bad.test", "--connect"))["postmaster"]
    assert paragraph.startswith("Your mail host mx1.bad.test")
    assert (await scene.cli("check", "not a domain"))[0] == 2


async def test_check_uses_the_policies_of_the_relay(scene: Scene, lab: Lab) -> None:
    shop = await lab.domain(
        "shop.test", mx=[("mx1.shop.test", 10, None)], policy=PolicySite(mode="enforce", mx=("mx1.shop.test",), id="1")
    )
    async with scene.relay:
        await scene.settled(await scene.send("bob@shop.test"), "delivered")
        shop.announce()
        shop.policy_host_down()
        found = await scene.cli_json("check", "shop.test")
    assert (found["policy"]["result"], found["policy"]["mode"]) == ("cached", "enforce")


async def test_config_check_warns_of_an_ndr_that_could_not_arrive(scene: Scene, lab: Lab) -> None:
    assert await scene.cli("config", "check") == (0, f"{scene.config}: good\n", "")
    lab.dns.null_mx("legacy.test")
    scene.configure(QUICK_RETRIES, ndr_route=False)
    status, out, _ = await scene.cli("config", "check")
    assert status == 0
    assert "warning: an NDR to legacy.test would not arrive" in out
    assert "set ndr.route" in out
    assert "mta_sts.mode" not in out


async def test_config_check_warns_of_what_is_not_enforced(scene: Scene) -> None:
    scene.configure(QUICK_RETRIES + '[mta_sts]\nmode = "report-only"\n')
    status, out, _ = await scene.cli("config", "check")
    assert status == 0
    assert 'warning: mta_sts.mode: "report-only" delivers what policies (MTA-STS) forbid' in out

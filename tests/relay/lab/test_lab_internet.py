"""The lab as a whole: it comes up at once, stands alone, and leaves nothing behind."""

import ast
import asyncio
import gc
import ssl
import sys
import time
from pathlib import Path

import pytest

import relay.lab
from relay.lab.client import SmtpClient, submit
from relay.lab.internet import Lab
from relay.lab.loopback import POLICY_HOST
from relay.lab.mx_behaviour import HANG, Handshake, MxBehaviour, Phase
from relay.lab.policy_host import PolicySite, SiteFault


def asked(lab: Lab, name: str, rdtype: str) -> list[str]:
    return list(lab.dns.records(name, rdtype))


async def test_a_domain_has_all_that_a_sender_looks_for(lab: Lab) -> None:
    await lab.domain(
        "shop.test",
        mx=[("mx1.shop.test", 10, None), ("mx2.shop.test", 20, MxBehaviour(offers_starttls=False))],
        policy=PolicySite(mx=["*.shop.test"], id="7"),
    )
    assert sorted(asked(lab, "shop.test", "MX")) == ["10 mx1.shop.test.", "20 mx2.shop.test."]
    assert asked(lab, "_mta-sts.shop.test", "TXT") == ['"v=STSv1; id=7;"']
    assert asked(lab, "mta-sts.shop.test", "A") == [POLICY_HOST]
    for name in ("mx1.shop.test", "mx2.shop.test"):
        host = lab.hosts[name]
        assert asked(lab, name, "A") == [host.address]
        assert host.port == lab.smtp_port
        assert (await submit(f"{host.address}:{lab.smtp_port}", "a@x.test", ["b@shop.test"], b"Hi\r\n")).accepted
    assert len({host.address for host in lab.hosts.values()}) == 2
    assert [message.mx for message in lab.domains["shop.test"].messages()] == ["mx1.shop.test", "mx2.shop.test"]


async def test_a_domain_without_mx_and_policy(lab: Lab) -> None:
    domain = await lab.domain("bare.test")
    assert asked(lab, "bare.test", "MX") == asked(lab, "_mta-sts.bare.test", "TXT") == []
    assert domain.messages() == []


async def test_domains_share_a_host(lab: Lab) -> None:
    for name in ("a.test", "b.test"):
        await lab.domain(name, mx=[("mx.provider.test", 10, None)])
    host = lab.hosts["mx.provider.test"]
    await submit(f"{host.address}:{host.port}", "x@x.test", ["u@A.test", "v@b.test"], b"Hi\r\n")
    await submit(f"{host.address}:{host.port}", "x@x.test", ["v@b.test"], b"Hi\r\n")
    assert [len(lab.domains[name].messages()) for name in ("a.test", "b.test")] == [1, 2]


async def test_a_new_behaviour_for_a_host_that_is_there(lab: Lab) -> None:
    await lab.host("mx.test")
    behaviour = MxBehaviour(size=5)
    assert (await lab.host("mx.test", behaviour)).behaviour is behaviour
    assert (await lab.host("mx.test")).behaviour is behaviour


async def test_a_policy_is_published_again_and_withdrawn(lab: Lab) -> None:
    domain = await lab.domain("shop.test", policy=PolicySite(id="1"))
    domain.publish(PolicySite(id="2"))
    assert asked(lab, "_mta-sts.shop.test", "TXT") == ['"v=STSv1; id=2;"']
    domain.announce()
    assert asked(lab, "_mta-sts.shop.test", "TXT") == []


async def test_nobody_is_at_a_dead_address(lab: Lab) -> None:
    lab.down_host("mx.dead.test")
    (address,) = asked(lab, "mx.dead.test", "A")
    for port in (lab.smtp_port, lab.policy_port):
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(address, port)


async def test_two_labs_do_not_meet(lab: Lab) -> None:
    async with Lab() as other:
        assert len({lab.nameserver, other.nameserver}) == 2
        assert len({lab.smtp_port, other.smtp_port, lab.policy_port, other.policy_port}) == 4
        ours, theirs = await lab.host("mx.test"), await other.host("mx.test")
        await submit(f"{theirs.address}:{theirs.port}", "a@x.test", ["b@shop.test"], b"Hi\r\n")
        assert (len(ours.messages), len(theirs.messages)) == (0, 1)


async def test_two_hundred_domains_are_there_in_a_second() -> None:
    started = time.process_time()
    async with Lab() as lab:
        for number in range(200):
            name = f"d{number}.test"
            await lab.domain(name, mx=[(f"mx.{name}", 10, None)], policy=PolicySite(mx=[f"mx.{name}"]))
        assert len(lab.hosts) == 200
    assert time.process_time() - started < 1


async def test_nothing_is_left_behind(lenient: ssl.SSLContext) -> None:
    """Whatever hangs, at whatever point: the lab goes, and takes tasks, sockets and files with it."""
    async with Lab() as lab:
        directory = lab.ca_file.parent
        await lab.domain("shop.test", policy=PolicySite(fault=SiteFault.HANG_IN_TLS))
        hosts = [
            await lab.host("banner.test", MxBehaviour(replies={Phase.BANNER: HANG})),
            await lab.host("ehlo.test", MxBehaviour(replies={Phase.EHLO: HANG})),
            await lab.host("tls.test", MxBehaviour(handshake=Handshake.HANG)),
        ]
        writers = [(await asyncio.open_connection(host.address, host.port))[1] for host in hosts]
        for writer in writers:
            writer.write(b"EHLO x\r\nSTARTTLS\r\n")
        writers.append((await asyncio.open_connection(POLICY_HOST, lab.policy_port))[1])
        writers[-1].write(b"\x16\x03\x01\x00")
        await hosts[2].sessions.wait_for(1)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not directory.exists()
    for writer in writers:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    del lab, hosts
    gc.collect()  # an unclosed socket or transport would warn, and a warning is an error


async def test_a_session_that_is_going_on_is_broken_off() -> None:
    async with Lab() as lab:
        host = await lab.host("mx.test")
        client = SmtpClient(f"{host.address}:{host.port}", timeout=5)
        await client.connect()
    with pytest.raises((ConnectionResetError, EOFError)):
        await client.reply()
    await client.close()
    assert host.connections == 0


async def test_a_host_goes_down_and_comes_back(lab: Lab) -> None:
    host = await lab.host("mx.test")
    await host.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host.address, lab.smtp_port)
    await host.start(host.address, lab.smtp_port)
    assert (await submit(f"{host.address}:{host.port}", "a@x.test", ["b@x.test"], b"Hi\r\n")).accepted


def test_the_lab_stands_on_the_other_side_of_the_wire() -> None:
    """It imports the standard library, dnspython and cryptography; of the relay, nothing but itself."""
    allowed = {"dns", "cryptography"}
    for file in Path(relay.lab.__path__[0]).glob("*.py"):
        if file.name == "demo.py":  # the demo runs the relay against it
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                top = name.partition(".")[0]
                assert name.startswith("relay.lab") or top in allowed or top in sys.stdlib_module_names, (
                    file.name,
                    name,
                )

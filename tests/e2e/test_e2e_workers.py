"""relay.workers = 2: one queue file each, one relay from outside; deaths, stalls, and a number that changes."""

import asyncio
import os
import re
import signal
import socket
from collections import Counter
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from e2e_scene import QUICK_RETRIES, Scene, is_event, parsed

from relay.lab.ca import CertificateKind
from relay.lab.client import SmtpClient
from relay.lab.gate import Gate
from relay.lab.internet import Lab
from relay.lab.journal import Journal
from relay.lab.mx_behaviour import Answer, MxBehaviour, Phase
from relay.lab.mx_records import ReceivedMessage
from relay.lab.scenario import SENDER
from relay.queue.ids import worker_of

MX = "mx1.shop.test"
CLOSED = MxBehaviour(replies={Phase.RCPT: "450 4.2.1 Later"})


def configure(scene: Scene, workers: int, extra: str = QUICK_RETRIES) -> None:
    scene.configure(extra, replace=("[relay]", f"[relay]\nworkers = {workers}"))


async def domain(lab: Lab, behaviour: MxBehaviour | None = None) -> None:
    await lab.domain("shop.test", mx=[(MX, 10, behaviour)])


async def send_to_each(scene: Scene, workers: int = 2) -> dict[int, str]:
    """Send over new connections until each worker has taken a message; return one queue id of each."""
    taken: dict[int, str] = {}
    for _ in range(200):
        queue_id = await scene.send("bob@shop.test")
        taken.setdefault(worker_of(queue_id), queue_id)
        if len(taken) == workers:
            return taken
    raise AssertionError(f"all went to {taken}")


async def client_of(worker: int, address: str, exits: AsyncExitStack) -> SmtpClient:
    """Return a connection that this worker serves."""
    for _ in range(50):
        client = await exits.enter_async_context(SmtpClient(address))
        await client.connect()
        if worker_of(await send_over(client)) == worker:
            return client
    raise AssertionError(f"worker {worker} has got no connection")


async def send_over(client: SmtpClient) -> str:
    """Send a message over a connection; return its queue id."""
    await client.command("EHLO client.legacy.test")
    await client.command(f"MAIL FROM:<{SENDER}>")
    await client.command("RCPT TO:<bob@shop.test>")
    return (await client.data(b"Subject: x\r\n\r\nx\r\n")).text.rpartition(" ")[2]


def worker_pids(parent: int) -> dict[int, int]:
    """Return the worker processes of a parent by their number."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in children}
    return {int(words[words.index(b"--number") + 1]): pid for pid, words in commands.items() if b"--number" in words}


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


async def subjects(arrived: Journal[ReceivedMessage], wanted: Iterable[str]) -> Counter[str]:
    """Wait until all these have arrived; count each."""
    counts: Counter[str] = Counter()
    async with asyncio.timeout(60):
        while not set(wanted) <= counts.keys():
            await arrived.wait_for(counts.total() + 1, 60)
            counts.update(str(parsed(one)["subject"]) for one in arrived[counts.total() :])
    return counts


def value(metrics: str, sample: str) -> float:
    found = re.search(rf"^mta_sts_relay_{re.escape(sample)} (\S+)$", metrics, re.MULTILINE)
    return float(found[1]) if found else 0.0


@pytest.mark.parametrize("event_loop", ["uvloop", "asyncio"])
async def test_two_workers_are_one_relay(scene: Scene, lab: Lab, event_loop: str) -> None:
    """Mail through both; metrics, readiness, log, SIGHUP and the command line speak of both."""
    await domain(lab)
    configure(scene, 2)
    scene.relay.environ = {**os.environ, "MTA_STS_RELAY_LOOP": event_loop}
    async with scene.relay as relay:
        started = await relay.wait_for(is_event("relay.started"))
        assert str(started["event_loop"]).startswith(event_loop)
        assert started["workers"] == 2
        assert await scene.http("/readyz") == (200, "ready\n")
        taken = await send_to_each(scene)
        for number, queue_id in taken.items():
            told = await scene.settled(queue_id, "delivered")
            assert told["worker"] == number
            (entry,) = await scene.cli_json("queue", "show", queue_id)
            assert entry["state"] == "delivered"
        sent = len(lab.hosts[MX].messages)
        listed = await scene.cli_json("queue", "list", "--all")
        assert [entry["accepted_at"] for entry in listed] == sorted(entry["accepted_at"] for entry in listed)
        assert len(listed) == sent
        for accept in ("text/plain", "application/openmetrics-text"):
            status, text = await scene.http("/metrics", accept)
            assert status == 200
            assert value(text, 'ingress_messages_total{result="accepted"}') == sent
            assert value(text, "workers") == 2
            assert text.count("mta_sts_relay_build_info{") == 1
        assert not relay.other_lines
        relay.send_signal(signal.SIGHUP)
        assert (await relay.wait_for(is_event("config.reloaded")))["need_restart"] == ""
        await send_to_each(scene)


async def test_a_reload_that_one_cannot_use_changes_none(scene: Scene, lab: Lab, tmp_path: Path) -> None:
    await domain(lab)
    configure(scene, 2)
    async with scene.relay as relay:
        users = tmp_path / "users"
        users.write_text("nobody can read this as a list of users\n")
        listener = '[[listener]]\naddress = "127.0.0.1:0"\n'
        configure(scene, 2, QUICK_RETRIES + f'[access]\nusers_file = "{users}"\n')
        text = scene.config.read_text()
        identity = lab.ca.identity(CertificateKind.GOOD, "relay.legacy.test").pem_file
        tls = f'{listener}tls = "starttls"\ncertificate = "{identity}"\nkey = "{identity}"\n'
        scene.config.write_text(text.replace(listener, tls))
        relay.send_signal(signal.SIGHUP)
        await relay.wait_for(is_event("listener.reload_failed"))
        await send_to_each(scene)


async def test_sigterm_ends_all_in_order(scene: Scene, lab: Lab) -> None:
    gate = Gate()
    await domain(lab, MxBehaviour(replies={Phase.END_OF_DATA: Answer(gate=gate)}))
    configure(scene, 2)
    async with scene.relay as relay, SmtpClient(relay.smtp) as idle:
        await idle.connect()
        await idle.command("EHLO client.legacy.test")
        taken = await send_to_each(scene)
        await gate.arrivals.wait_for(2)
        relay.send_signal(signal.SIGTERM)
        assert str(await idle.reply()).startswith("421 4.3.2 ")
        gate.open()
        assert await relay.wait() == 0
        assert sum(event["event"] == "recipient.delivered" for event in relay.events) >= 2
    states = {entry["queue_id"]: entry["state"] for entry in await scene.cli_json("queue", "list", "--all")}
    assert "leased" not in states.values()
    assert set(taken.values()) <= states.keys()


@pytest.mark.timeout(180)
async def test_kill_9_of_a_worker_loses_nothing_and_leaves_the_others_alone(scene: Scene, lab: Lab) -> None:
    await domain(lab)
    configure(scene, 2)
    accepted: set[str] = set()
    enough = asyncio.Event()

    async def send(client_number: int) -> None:
        """Send numbered messages, each until it is taken; a connection that breaks is made anew."""
        for number in range(60):
            subject = f"m{client_number}-{number}"
            while subject not in accepted:
                try:
                    await scene.send("bob@shop.test", subject=subject)
                except (OSError, EOFError, AssertionError):
                    continue
                accepted.add(subject)
                if len(accepted) == 120:
                    enough.set()

    async with scene.relay as relay:
        before = worker_pids(relay.pid)
        senders = asyncio.gather(*(send(number) for number in range(6)))
        await enough.wait()
        _, text = await scene.http("/metrics")
        counted = value(text, 'ingress_messages_total{result="accepted"}')
        os.kill(before[1], signal.SIGKILL)
        died = await relay.wait_for(is_event("worker.died"))
        assert (died["died"], died["pid"], died["end"], died["restart_in_seconds"]) == (1, before[1], "SIGKILL", 0.0)
        await relay.wait_for(is_event("worker.started", worker=1), first=relay.events.index(died))
        await senders
        counts = await subjects(lab.hosts[MX].messages, accepted)
        assert counts.keys() == accepted
        assert sum(counts.values()) - len(counts) <= 40, "duplicates are of messages in flight, no more"
        after = worker_pids(relay.pid)
        assert after[0] == before[0]
        assert after[1] != before[1]
        assert await scene.http("/readyz") == (200, "ready\n")
        _, text = await scene.http("/metrics")
        assert value(text, 'ingress_messages_total{result="accepted"}') > counted
        assert value(text, "worker_deaths_total") == 1


async def test_a_worker_whose_loop_stops_is_replaced_while_the_other_goes_on(scene: Scene, lab: Lab) -> None:
    await domain(lab)
    configure(scene, 2)
    async with scene.relay as relay, AsyncExitStack() as exits:
        stalled = worker_pids(relay.pid)[0]
        other = await client_of(1, relay.smtp, exits)
        os.kill(stalled, signal.SIGSTOP)
        waiting = [await exits.enter_async_context(SmtpClient(relay.smtp, timeout=60)) for _ in range(12)]
        greeted = asyncio.gather(*(client.connect() for client in waiting))
        assert worker_of(await send_over(other)) == 1
        assert await scene.http("/readyz") == (503, "worker 0 does not answer\n")
        status, text = await scene.http("/metrics")
        assert (status, value(text, "workers")) == (200, 2)
        told = await relay.wait_for(is_event("worker.stalled"), 40)
        assert (told["stalled"], told["pid"]) == (0, stalled)
        await greeted  # those in the backlog of the one that is gone are let in by its successor
        assert {worker_of(await send_over(client)) for client in waiting} == {0, 1}


async def test_workers_die_with_their_parent(scene: Scene, lab: Lab) -> None:
    await domain(lab, CLOSED)
    configure(scene, 2)
    async with scene.relay as relay:
        taken = await send_to_each(scene)
        pids = worker_pids(relay.pid)
        os.kill(pids[1], signal.SIGSTOP)  # not even one that is stopped outlives it
        await relay.kill()
        lab.hosts[MX].behaviour = MxBehaviour()
        await relay.start()
        for queue_id in taken.values():
            await scene.settled(queue_id, "delivered", 30)
        assert not any(is_there(pid) for pid in pids.values())


async def test_a_host_never_has_more_connections_than_the_bound_from_all_together(scene: Scene, lab: Lab) -> None:
    """With a bound of 3 each worker has a part of 1; what one does not need moves to the other, also back and forth.

    Nor does the other wait until connections have been idle for as long as they may.
    """
    await domain(lab, MxBehaviour(replies={Phase.END_OF_DATA: Answer(delay=0.05)}))
    configure(scene, 2)
    bounds = 'max_connections_per_destination = 3\nconnection_idle = "5m"'
    scene.config.write_text(scene.config.read_text().replace("[delivery]", f"[delivery]\n{bounds}"))
    async with scene.relay as relay, AsyncExitStack() as exits:
        clients = [await client_of(number, relay.smtp, exits) for number in (0, 1)]
        host = lab.hosts[MX]
        for client in (*clients, *clients):
            before = len(host.messages)
            for _ in range(50):
                last = await send_over(client)
            await scene.settled(last, "delivered", 30)
            assert len({id(message.session) for message in host.messages[before:]}) > 1
        assert host.most_connections in {2, 3}


async def test_a_worker_that_cannot_start_stops_the_start(scene: Scene) -> None:
    (scene.directory / "state").mkdir()
    (scene.directory / "state/queue-0.db").touch()
    (scene.directory / "state/queue-1.db").write_bytes(b"not a database, but long enough to look at" * 100)
    configure(scene, 2)
    status, _, err = await scene.cli("serve")
    assert status == 1
    assert "queue-1.db" in err
    assert "worker 1 could not start" in err


async def test_without_any_worker_left_the_relay_ends(scene: Scene) -> None:
    configure(scene, 2)
    async with scene.relay as relay:
        for file in (scene.directory / "state").glob("queue-?.db"):
            file.unlink()
            file.mkdir()
        for pid in worker_pids(relay.pid).values():
            os.kill(pid, signal.SIGKILL)
        assert await relay.wait() == 1
        await relay.wait_for(is_event("relay.died"))


async def test_an_address_in_use_is_named_by_the_second_relay_too(scene: Scene) -> None:
    configure(scene, 2)
    async with scene.relay as relay:
        text = scene.config.read_text().replace('"127.0.0.1:0"', f'"{relay.smtp}"', 1)
        scene.config.write_text(text.replace("[relay]", '[relay]\nstate_dir = "other"'))
        status, _, err = await scene.cli("serve")
    assert status == 1
    assert "while binding" in err


async def test_the_service_manager_hears_when_all_work(scene: Scene, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        scene.relay.environ = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        configure(scene, 2)
        async with scene.relay, asyncio.timeout(10):
            loop = asyncio.get_running_loop()
            assert await loop.sock_recv(manager, 100) == b"READY=1"
            assert await loop.sock_recv(manager, 100) == b"WATCHDOG=1"


async def test_fewer_workers_empty_the_files_of_those_that_are_gone(scene: Scene, lab: Lab) -> None:
    await domain(lab, CLOSED)
    configure(scene, 2)
    async with scene.relay:
        taken = await send_to_each(scene)
        for queue_id in taken.values():
            await scene.settled(queue_id, "deferred")
    lab.hosts[MX].behaviour = MxBehaviour()
    configure(scene, 1, '[queue]\nretry = ["1s"]\nretain_finished = "0s"\n')
    async with scene.relay as relay:
        for number, queue_id in taken.items():
            assert (await scene.settled(queue_id, "delivered"))["worker"] == number
        await relay.wait_for(is_event("queue.file_drained"), 30)
        removed = await relay.wait_for(is_event("queue.file_removed"), 30)
        assert str(removed["file"]).endswith("queue-1.db")
        assert worker_of(await scene.send("bob@shop.test")) == 0
    assert sorted(file.name for file in (scene.directory / "state").glob("queue-*")) == ["queue-0.db"]
    async with scene.relay as relay:
        assert not worker_pids(relay.pid), "one process again"


async def test_more_workers_take_up_what_one_has_left_and_its_pauses(scene: Scene, lab: Lab) -> None:
    await domain(lab, CLOSED)
    await lab.domain("paused.test", mx=[("mx.paused.test", 10, None)])
    async with scene.relay:
        waiting = await scene.send("bob@shop.test")
        await scene.settled(waiting, "deferred")
        assert (await scene.cli("queue", "pause", "--domain", "paused.test"))[0] == 0
    lab.hosts[MX].behaviour = MxBehaviour()
    configure(scene, 2)
    async with scene.relay:
        await scene.settled(waiting, "delivered")
        await send_to_each(scene)
        kept: dict[int, str] = {}
        while len(kept) < 2:
            queue_id = await scene.send("bob@paused.test")
            kept[worker_of(queue_id)] = queue_id
        assert {entry["state"] for entry in await scene.cli_json("queue", "list", "--domain", "paused.test")} == {
            "queued"
        }
        assert (await scene.cli("queue", "resume", "--domain", "paused.test"))[0] == 0
        for queue_id in kept.values():
            await scene.settled(queue_id, "delivered")


async def test_the_command_line_acts_on_all_files(scene: Scene, lab: Lab) -> None:
    await domain(lab, CLOSED)
    configure(scene, 2, '[queue]\nretry = ["1h"]\n')
    async with scene.relay:
        taken = await send_to_each(scene)
        for queue_id in taken.values():
            await scene.settled(queue_id, "deferred")
        status, out, _ = await scene.cli("queue", "hold", *taken.values())
        assert (status, out) == (0, "2 held\n")
    listed = await scene.cli_json("queue", "list", "--state", "held")
    assert {entry["queue_id"] for entry in listed} == set(taken.values())
    assert len(await scene.cli_json("queue", "list", "--state", "held", "--limit", "1")) == 1
    status, out, _ = await scene.cli("queue", "drop", "--state", "held")
    assert (status, out) == (0, "2 dropped\n")
    notices = await scene.cli_json("queue", "list", "--sender", "")
    assert {worker_of(entry["queue_id"]) for entry in notices} == {0, 1}, "an NDR is in the file of its message"

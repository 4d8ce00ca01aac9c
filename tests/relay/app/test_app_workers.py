"""Parts of several worker processes: their sockets, how they are started, and files of more than there are."""

import asyncio
import io
import json
import os
import secrets
import socket
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tls_report_makers import result

from relay.app.clock import SystemClock
from relay.app.leftovers import mail_waits, pause_in_new_files
from relay.app.log_lines import SharedLog
from relay.app.operating import operating
from relay.app.reload import kept
from relay.app.sockets import bind_for
from relay.app.state_dir import NODE, queue_file, queue_files
from relay.app.worker_process import Launcher, said_end
from relay.config import Settings, from_json, parse, to_json
from relay.config.quantities import HostPort
from relay.queue.ids import QueueIds
from relay.queue.message import Envelope, NewMessage, NewRecipient
from relay.store.protocols import QueueFilter
from relay.store.sqlite.queue import SqliteQueueStore
from relay.store.sqlite.tls_results import add_results

ANY = HostPort("127.0.0.1", 0)


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_each_process_has_a_socket_for_each_address(opened: ExitStack) -> None:
    rows = bind_for(3, [ANY, HostPort("127.0.0.2", 0)])
    for row in rows:
        for one in row:
            opened.enter_context(one)
    assert len({tuple(one.getsockname() for one in row) for row in rows}) == 1
    assert [one.getsockname()[0] for one in rows[0]] == ["127.0.0.1", "127.0.0.2"]


def test_clients_in_a_backlog_outlive_whoever_was_to_let_them_in(opened: ExitStack) -> None:
    ((kept_open,),) = bind_for(1, [ANY])
    opened.enter_context(kept_open)
    with socket.socket(fileno=os.dup(kept_open.fileno())) as of_a_worker:
        of_a_worker.listen()
        client = opened.enter_context(socket.create_connection(kept_open.getsockname()))
    kept_open.setblocking(True)
    accepted, address = kept_open.accept()
    opened.enter_context(accepted)
    assert address == client.getsockname()


def test_an_address_in_use_is_told_also_if_it_could_be_shared(opened: ExitStack) -> None:
    ((first,),) = bind_for(1, [ANY])
    opened.enter_context(first).listen()
    address = HostPort(*first.getsockname())
    with pytest.raises(OSError, match="in use while binding") as told:
        bind_for(2, [ANY, address])
    assert str(address.port) in str(told.value)


def test_ipv6_is_apart_from_ipv4(opened: ExitStack) -> None:
    try:
        ((one,),) = bind_for(1, [HostPort("::1", 0)])
    except OSError:
        pytest.xfail("this machine has no IPv6")
    assert opened.enter_context(one).getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1


@pytest.mark.parametrize(
    ("status", "told"), [(0, "exit status 0"), (1, "exit status 1"), (-9, "SIGKILL"), (-99, "signal 99")]
)
def test_how_a_process_ended(status: int, told: str) -> None:
    assert said_end(status) == told


PROGRAM = """
import json, os, socket, sys
line = socket.socket(fileno=int(sys.argv[sys.argv.index("--line") + 1]))
listen = socket.socket(fileno=int(sys.argv[sys.argv.index("--listen") + 1]))
hear = line.makefile()
kind, number, value = json.loads(hear.readline())
print("heard", kind, value, file=sys.stderr)
def say(kind, number=0, value=None):
    line.sendall(json.dumps([kind, number, value]).encode() + b"\\n")
say("ready")
say("port", value=listen.getsockname()[1])
for question in hear:
    kind, number, value = json.loads(question)
    if kind == "stop":
        break
    say("answer", number, value + 1)
print("ending", file=sys.stderr)
sys.exit(3)
"""


async def test_a_process_is_started_heard_asked_and_ended(tmp_path: Path, opened: ExitStack) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    ((listening,),) = bind_for(1, [ANY])
    opened.enter_context(listening)
    log, told = io.StringIO(), dict[str, Any]()
    with (tmp_path / "lock").open("w") as lock:
        program = [sys.executable, str(tmp_path / "program.py")]
        launcher = Launcher(program=program, lock_fd=lock.fileno(), log=SharedLog(log))
        process = await launcher.start(5, [listening], told.__setitem__)
    async with asyncio.timeout(30):
        process.tell("begin", "now")
        await process.ready.wait()
        assert await process.ask("add", 1, seconds=20) == 2
        assert told["port"] == listening.getsockname()[1]
        assert (process.heard, process.silent) == (True, 0)
        process.tell("stop")
        assert await process.ended() == 3
    assert log.getvalue() == "heard begin now\nending\n"
    assert await process.ask("add", 1, seconds=1) is None
    process.kill()  # one that is gone already


# Files of more workers than there are.


def settings(directory: Path, text: str = "") -> Settings:
    return parse(text, base=directory)


async def put(given: Settings, number: int) -> str:
    """Put a message into the file of this number, which is made."""
    given.relay.state_dir.mkdir(exist_ok=True)
    clock = SystemClock()
    file = queue_file(given.relay.state_dir, number)
    store = await SqliteQueueStore.open(file, clock=clock, incarnation=secrets.token_hex(4), node=NODE)
    queue_id = QueueIds(number, clock.now, secrets.token_bytes)()
    message = NewMessage(
        queue_id=queue_id,
        envelope=Envelope(reverse_path="a@legacy.test"),
        recipients=(NewRecipient(forward_path="b@shop.test", destination="shop.test"),),
        content=b"Subject: x\r\n\r\nx\r\n",
    )
    await store.enqueue(message)
    await store.close()
    return queue_id


async def test_what_waits_in_files_of_others_is_found_and_what_is_empty_goes(tmp_path: Path) -> None:
    given = settings(tmp_path)
    for number in (0, 2, 3):
        await put(given, number)
    async with operating(given) as operator:
        assert await operator.hold(QueueFilter(all=True)) == 3
    empty = queue_file(given.relay.state_dir, 7)
    store = await SqliteQueueStore.open(empty, clock=SystemClock(), incarnation="x", node=NODE)
    await store.close()
    assert await mail_waits(given, [0]) == (2, 3)
    assert [*queue_files(given.relay.state_dir)] == [0, 2, 3]


async def test_a_file_stays_while_it_knows_of_finished_mail(tmp_path: Path) -> None:
    given = settings(tmp_path)
    queue_id = await put(given, 1)
    async with operating(given) as operator:
        assert await operator.drop(QueueFilter(ids=(queue_id,)), silent=True) == 1
    assert await mail_waits(given, [0]) == ()
    assert [*queue_files(given.relay.state_dir)] == [1]
    assert await mail_waits(settings(tmp_path, '[queue]\nretain_finished = "0s"\n'), [0]) == ()
    assert not queue_files(given.relay.state_dir)


@pytest.mark.rfc("8460-4.2-i")
@pytest.mark.parametrize(("days_ago", "stays"), [(0, True), (1, True), (2, False)])
async def test_a_file_stays_while_its_sessions_are_to_be_reported(tmp_path: Path, days_ago: int, stays: bool) -> None:
    given = settings(tmp_path)
    given.relay.state_dir.mkdir(parents=True)
    file = queue_file(given.relay.state_dir, 1)
    store = await SqliteQueueStore.open(file, clock=SystemClock(), incarnation="x", node=NODE)
    await store.close()
    day = SystemClock().now().date() - timedelta(days=days_ago)
    with closing(sqlite3.connect(file)) as connection, connection:
        add_results(connection, [replace(result(), day=day)])
    assert await mail_waits(given, [0]) == ()
    assert bool(queue_files(given.relay.state_dir)) is stays


async def test_new_files_know_which_domains_are_paused(tmp_path: Path) -> None:
    await put(settings(tmp_path), 0)
    async with operating(settings(tmp_path)) as operator:
        await operator.pause("shop.test")
    more = settings(tmp_path, "[relay]\nworkers = 3\n")
    await pause_in_new_files(more)
    await pause_in_new_files(more)
    assert [*queue_files(more.relay.state_dir)] == [0, 1, 2]
    for file in queue_files(more.relay.state_dir).values():
        store = await SqliteQueueStore.open(file, clock=SystemClock(), incarnation=secrets.token_hex(4), node=NODE)
        paused = [one.name for one in await store.destinations(10) if one.paused]
        await store.close()
        assert paused == ["shop.test"]


async def test_the_operator_sees_all_files_in_one_order(tmp_path: Path) -> None:
    given = settings(tmp_path)
    ids = [await put(given, number) for number in (1, 0, 2, 0)]
    async with operating(given) as operator:
        assert [entry.message.queue_id for entry in await operator.list(QueueFilter(all=True), 10)] == ids
        assert [entry.message.queue_id for entry in await operator.list(QueueFilter(all=True), 2)] == ids[:2]
        assert [entry.message.queue_id for entry in await operator.show(ids[2])] == [ids[2]]
        assert await operator.retry(QueueFilter(domain="shop.test")) == 4


# Settings on their way.


def test_settings_reach_a_worker_as_they_are(tmp_path: Path) -> None:
    text = Path("config.toml").read_text(encoding="utf-8")
    for given in (
        settings(tmp_path),
        settings(tmp_path, text),
        settings(tmp_path, '[queue]\ndelay_notice_after="never"'),
    ):
        assert from_json(to_json(given)) == given
        json.loads(to_json(given))


def test_what_needs_a_restart_stays_and_all_else_is_new(tmp_path: Path) -> None:
    old = settings(tmp_path, "[[listener]]\naddress = '127.0.0.1:25'\n[store]\nmin_free_disk = '1MiB'\n")
    new = settings(
        tmp_path,
        "[relay]\nworkers = 4\nhostname = 'b.example'\n[[listener]]\naddress = '127.0.0.1:26'\n"
        "[[listener]]\naddress = '127.0.0.1:25'\nproxy_protocol = true\n[access]\nproxies = ['192.0.2.1/32']\n",
    )
    mixed = kept(old, new)
    assert (mixed.relay.workers, mixed.relay.hostname, mixed.store) == (1, "b.example", old.store)
    assert mixed.listener == (new.listener[1],)

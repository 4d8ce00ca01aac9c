"""The parts of the process: the lock, the service manager, reload rules, plain settings, our own addresses."""

import ipaddress
import os
import socket
from datetime import timedelta
from pathlib import Path

import pytest

from policy.nameservers import TrustAd
from relay.app import plain
from relay.app.ndr_route import ndr_domains
from relay.app.reload import need_restart
from relay.app.state_dir import StateDirError, StateDirLock, queue_file, queue_files, remove_queue_file
from relay.app.systemd import ServiceManager
from relay.config import Settings, parse
from relay.ingress.settings import TlsMode


def settings(text: str = "") -> Settings:
    return parse(text, base=Path("/base"))


def test_the_state_directory_is_made_for_us_alone(tmp_path: Path) -> None:
    with StateDirLock(tmp_path / "a/state"):
        assert (tmp_path / "a/state").stat().st_mode & 0o777 == 0o700


def test_the_second_is_told_who_the_first_is(tmp_path: Path) -> None:
    with StateDirLock(tmp_path), pytest.raises(StateDirError, match=f"in use by process {os.getpid()}"):
        StateDirLock(tmp_path).__enter__()
    with StateDirLock(tmp_path):
        pass


def test_whoever_inherits_the_lock_holds_it_as_well(tmp_path: Path) -> None:
    with StateDirLock(tmp_path) as lock:
        inherited = os.dup(lock.fd)
    with pytest.raises(StateDirError, match="in use"):
        StateDirLock(tmp_path).__enter__()
    os.close(inherited)
    with StateDirLock(tmp_path):
        pass


def test_queue_files_are_found_by_number(tmp_path: Path) -> None:
    for name in ("queue-10.db", "queue-2.db", "queue-0.db", "queue-01.db", "queue-x.db", "queue-0.db-wal", "policy.db"):
        (tmp_path / name).touch()
    assert [*queue_files(tmp_path)] == [0, 2, 10]
    assert queue_files(tmp_path)[10] == queue_file(tmp_path, 10)
    (tmp_path / "queue-2.db-shm").touch()
    remove_queue_file(queue_file(tmp_path, 2))
    remove_queue_file(queue_file(tmp_path, 0))
    assert sorted(file.name for file in tmp_path.glob("queue-?.db*")) == ["queue-x.db"]


def test_a_state_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateDirError, match="cannot be used: "):
        StateDirLock(tmp_path / "file/state").__enter__()


def test_nobody_listens_and_nothing_is_said() -> None:
    manager = ServiceManager({})
    manager.say("READY=1")
    assert manager.watchdog_interval is None


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_hears(tmp_path: Path, abstract: bool) -> None:
    name = f"@mta-sts-relay-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(name.replace("@", "\0"))
        manager = ServiceManager({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "30000000"})
        manager.say("READY=1")
        assert heard.recv(100) == b"READY=1"
    assert manager.watchdog_interval == timedelta(seconds=15)
    manager.say("STOPPING=1")  # nobody is there any more, and that is no error


@pytest.mark.parametrize("limit", ["", "0", "soon", "-5"])
def test_no_watchdog_without_a_limit(limit: str) -> None:
    assert ServiceManager({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": limit}).watchdog_interval is None


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", []),
        ("[relay]\nstate_dir = 'other'", ["relay.state_dir"]),
        ("[[listener]]\naddress = '127.0.0.1:25'", ["listener addresses"]),
        ("[store]\nmin_free_disk = '1GiB'", ["store.min_free_disk"]),
        ("[http]\naddress = '127.0.0.1:1'", ["http.address"]),
        ("[relay]\nhostname = 'a.example'\nstop_timeout = '1s'\n[queue]\nretry = ['1s']\n[log]\nlevel = 'debug'", []),
        ("[access]\nnetworks = ['10.0.0.0/8']\n[mta_sts]\nmode = 'off'\n[delivery]\nsmtp_port = 26", []),
    ],
)
def test_what_needs_a_restart(text: str, names: list[str]) -> None:
    assert list(need_restart(settings(), settings(text))) == names


def test_the_order_of_listeners_is_no_change() -> None:
    one, two = "[[listener]]\naddress = '127.0.0.1:25'\n", "[[listener]]\naddress = '127.0.0.1:26'\n"
    assert list(need_restart(settings(one + two), settings(two + one))) == []


def test_settings_reach_the_parts() -> None:
    given = settings(
        """
        [relay]
        hostname = "r.example"
        [[listener]]
        address = "[::1]:465"
        tls = "implicit"
        certificate = "c.pem"
        key = "k.pem"
        [access]
        sender_domains = ["*.example"]
        [ingress]
        bare_newlines = "reject"
        [queue]
        delay_notice_after = "never"
        [dns]
        nameservers = ["192.0.2.1:5353"]
        trust_ad = false
        [delivery.timeouts]
        rcpt = "7s"
        [ndr]
        route = ["smtp://[::1]:2525", "smtp://mail.example"]
        include = "full"
        """
    )
    ingress = plain.ingress_settings(given)
    assert ingress.hostname == "r.example"
    assert ingress.listeners[0].tls is TlsMode.IMPLICIT
    assert ingress.listeners[0].host_port == ("::1", 465)
    assert ingress.access.sender_domains == ("*.example",)
    assert ingress.bare_newlines.value == "reject"
    assert plain.schedule_settings(given).delay_notice_after is None
    assert [(one.address, one.port) for one in plain.name_servers(given)] == [("192.0.2.1", 5353)]
    assert plain.trust_ad(given) is TrustAd.NO
    assert plain.timeouts(given).rcpt == timedelta(seconds=7)
    assert [(str(one.host), one.port) for one in plain.route_settings(given, {}).ndr_route] == [
        ("::1", 2525),
        ("mail.example", 25),
    ]
    assert plain.notice_settings(given).include_full


def test_our_own_addresses_are_those_that_mail_would_come_back_to() -> None:
    text = "[[listener]]\naddress = '192.0.2.7:25'\n[[listener]]\naddress = '192.0.2.8:587'\n"
    assert plain.own_addresses(settings(text)) == {ipaddress.ip_address("192.0.2.7")}


def test_a_listener_on_all_addresses_is_at_the_one_we_send_from() -> None:
    own = plain.own_addresses(settings("[[listener]]\naddress = '0.0.0.0:25'\n"))
    assert ipaddress.ip_address("0.0.0.0") in own


def test_ndr_domains_are_those_of_postmaster_and_senders() -> None:
    text = "[relay]\npostmaster = 'p@a.example'\n[access]\nsender_domains = ['b.example', '*.c.example', 'a.example']"
    assert ndr_domains(settings(text)) == ("a.example", "b.example", "c.example")

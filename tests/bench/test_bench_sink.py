"""The bench cannot pass on mail that is lost, doubled, unprotected or not on the disk: its checks can fail."""

import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench_client import Client
from commit_row import synced
from real_servers import free_port
from sink_client import Sink, SinkHost, running_sink, wait_for

from relay.lab.ca import CertificateKind, LabCA

GOOD, PLAIN = "127.0.0.71", "127.0.0.72"
RECIPIENT = "user@a.test"
SIZE = 2000


class Scene:
    """A sink with one MX host that has TLS and one that has not."""

    def __init__(self, sink: Sink, port: int, ca_file: Path) -> None:
        self.sink = sink
        self._port = port
        self._tls = ssl.create_default_context(cafile=ca_file)

    def client(self, name: str = "mx.a.test") -> Client:
        client = Client(GOOD, self._port)
        client.start_tls(self._tls, name)
        return client

    def plain_client(self) -> Client:
        return Client(PLAIN, self._port)

    def faults(self, deliveries: int) -> list[str]:
        assert wait_for(self.sink, deliveries, stalled=5) or deliveries > self.sink.count()
        return self.sink.report().faults(deliveries=deliveries, smallest=SIZE, refused=("mx.bad.test", "mx.p.test"))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    root = tmp_path_factory.mktemp("sink")
    ca, port = LabCA(root / "ca"), free_port(GOOD)
    hosts = {
        "mx.a.test": SinkHost(address=GOOD, pem_file=ca.identity(CertificateKind.GOOD, "mx.a.test").pem_file),
        "mx.b.test": SinkHost(address="127.0.0.73", pem_file=ca.identity(CertificateKind.GOOD, "mx.b.test").pem_file),
        "mx.p.test": SinkHost(address=PLAIN, pem_file=None),
    }
    with running_sink(root / "run", hosts, {"a.test": "mx.a.test", "b.test": "mx.b.test"}, port) as sink:
        yield Scene(sink, port, ca.ca_file)


@pytest.fixture
def scene(running: Scene) -> Scene:
    running.sink.reset()
    return running


def test_whole_mail_over_verified_tls_has_no_fault(scene: Scene) -> None:
    with scene.client() as client:
        for number in range(3):
            client.send(f"{number}@x", RECIPIENT, SIZE)
    assert scene.faults(3) == []
    report = scene.sink.report()
    assert (report["connections"], report["handshakes"], report["transactions"]) == (1, 1, 3)
    assert report.host("mx.a.test") == {"sessions": 1, "mails": 3, "messages": 3}
    assert set(scene.sink.times()) == {f"{number}@x {RECIPIENT}" for number in range(3)}


def test_pipelined_messages_and_chunks_are_told_apart(scene: Scene) -> None:
    envelope = b"MAIL FROM:<s@x>\r\nRCPT TO:<user@a.test>\r\n"
    first, second = (b"Message-ID: <%d@x>\r\n\r\n%s\r\n" % (number, b"." * SIZE) for number in range(2))
    chunk = b"BDAT %d LAST\r\n" % (len(second) - 30) + second[30:]
    with scene.client() as client:
        client.write(envelope + b"DATA\r\n")
        client.expect(b"354", replies=3)
        client.write(first + b".\r\n" + envelope + b"BDAT 30\r\n" + second[:30] + chunk)
        client.expect(b"250", replies=5)
        client.write(b"BDAT 3 LAST\r\nX\r\nRSET\r\n")
        client.expect(b"250", replies=2)
    assert scene.faults(2) == [], "a chunk without a transaction is skipped"
    assert scene.sink.report()["smallest"] == len(first) == len(second)


def test_the_end_of_content_is_found_wherever_it_is_cut(scene: Scene) -> None:
    content = b"Message-ID: <%d@x>\r\n\r\n" + b"x" * SIZE + b"\r\n.\r\n"
    with scene.client() as client:
        for cut in range(1, 6):
            client.write(b"MAIL FROM:<s@x>\r\nRCPT TO:<user@a.test>\r\nDATA\r\n")
            client.expect(b"354", replies=3)
            octets = content % cut
            client.write(octets[:-cut])
            client.write(octets[-cut:])
            client.expect(b"250")
    assert scene.faults(5) == []


def test_loss_is_a_fault(scene: Scene) -> None:
    with scene.client() as client:
        client.send("1@x", RECIPIENT, SIZE)
    assert not wait_for(scene.sink, 2, stalled=0.1)
    assert scene.sink.report().faults(deliveries=2, smallest=SIZE, refused=()) == ["1 of 2 deliveries arrived"]


def test_a_duplicate_is_a_fault(scene: Scene) -> None:
    with scene.client() as client:
        client.send("1@x", RECIPIENT, SIZE)
        client.send("1@x", RECIPIENT, SIZE)
    assert scene.faults(1) == ["1 duplicates"]


def test_mail_in_the_clear_is_a_fault_and_so_is_mail_to_a_host_that_must_be_refused(scene: Scene) -> None:
    with scene.plain_client() as client:
        client.send("1@x", RECIPIENT, SIZE)
    assert scene.faults(1) == ["1 plaintext", "1 misdirected", "mx.p.test was offered mail"]


def test_mail_under_another_hosts_name_is_a_fault(scene: Scene) -> None:
    with scene.client("mx.b.test") as client:
        client.send("1@x", RECIPIENT, SIZE)
    assert scene.faults(1) == ["1 misdirected"]


def test_a_truncated_message_is_a_fault(scene: Scene) -> None:
    with scene.client() as client:
        client.send("1@x", RECIPIENT, SIZE // 2)
    assert any("octets" in fault for fault in scene.faults(1))


def test_a_client_that_refuses_the_certificate_was_there_and_said_no_mail(scene: Scene) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        scene.client("mx.elsewhere.test")
    with scene.client() as client:
        client.send("1@x", RECIPIENT, SIZE)
    assert scene.faults(1) == []
    assert scene.sink.report().host("mx.elsewhere.test") == {"sessions": 1, "mails": 0, "messages": 0}


def test_replies_are_held_back_in_parallel(scene: Scene) -> None:
    clients = [scene.client() for _ in range(5)]
    delay = 0.4
    scene.sink.reset(delay=delay)
    began = time.monotonic()
    for client in clients:
        client.write(b"NOOP\r\n")
    for client in clients:
        client.expect(b"250")
        client.__exit__(None, None, None)
    assert delay <= time.monotonic() - began < 3 * delay


def test_only_syncs_that_succeeded_are_commits() -> None:
    calls = """\
11 100.000000 fdatasync(7) = 0 <0.500000>
12 101.000000 fsync(8 <unfinished ...>
11 101.100000 fdatasync(7) = -1 EIO (Input/output error) <0.100000>
12 101.900000 <... fsync resumed>)       = 0 <0.900000>
13 102.000000 +++ exited with 0 +++
"""
    assert synced(calls) == [100.5, 101.9]

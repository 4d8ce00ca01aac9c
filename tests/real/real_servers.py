"""Real servers on loopback for the tests: Postfix, unbound and nginx, each in a directory of its own.

They are started by their own programs with their own configuration and ended by pid. Nothing of the machine's
own set-up is read or changed.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from email import policy as email_policy
from email.message import EmailMessage
from email.parser import BytesParser
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

PATHS = ("/usr/sbin", "/usr/bin", "/sbin", "/bin")
START_LIMIT = 20.0
SITE_LIMIT = 0.02
"""Seconds more for each policy host."""


def program(name: str) -> str:
    """Return the path of a real server's program, or skip the test and name what is missing."""
    path = shutil.which(name, path=os.pathsep.join(PATHS))
    if path is None:
        pytest.skip(f"{name} is not installed (make apt)")
    return path


def free_port(address: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], bool], what: str, limit: float = START_LIMIT) -> None:
    """Wait for a condition of another process, which can only be asked again and again; bounded."""
    end = time.monotonic() + limit
    pause = 0.01
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"waited {limit:g} s for {what}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)


def answers(address: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1):
        return True
    return False


@dataclass(kw_only=True)
class Postfix:
    """One Postfix instance. `domains` are delivered to Maildirs below `mail`; all else as `settings` say.

    `services` are lines of master.cf beside the stock ones.
    """

    root: Path
    address: str
    port: int
    hostname: str
    domains: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    services: tuple[str, ...] = ()
    pid: int = 0

    @property
    def etc(self) -> Path:
        return self.root / "etc"

    @property
    def log(self) -> str:
        path = self.root / "maillog"
        return path.read_text(errors="backslashreplace") if path.exists() else ""

    def __enter__(self) -> Self:
        program("postfix")
        owner = pwd.getpwnam("postfix")
        self.root.chmod(0o755)
        for name in ("etc", "queue", "data", "mail"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        for name in ("data", "mail"):
            os.chown(self.root / name, owner.pw_uid, owner.pw_gid)
        self._write_main(owner)
        self._write_master()
        self._postfix("start")
        wait_until(lambda: answers(self.address, self.port), f"Postfix at {self.address}:{self.port}")
        self.pid = int((self.root / "queue/pid/master.pid").read_text())
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._postfix("stop", check=False)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def _postfix(self, command: str, *, check: bool = True) -> None:
        subprocess.run(
            [program("postfix"), "-c", str(self.etc), command], check=check, capture_output=True, text=True, timeout=60
        )

    def _write_main(self, owner: pwd.struct_passwd) -> None:
        settings = {
            "compatibility_level": "3.6",
            "myhostname": self.hostname,
            "mydestination": "",
            "inet_interfaces": "loopback-only",
            "inet_protocols": "ipv4",
            "mynetworks": "127.0.0.0/8",
            "queue_directory": str(self.root / "queue"),
            "data_directory": str(self.root / "data"),
            "maillog_file": str(self.root / "maillog"),
            "maillog_file_prefixes": str(self.root),
            "virtual_mailbox_domains": " ".join(self.domains),
            "virtual_mailbox_base": str(self.root / "mail"),
            "virtual_mailbox_maps": "static:all/",
            "virtual_uid_maps": f"static:{owner.pw_uid}",
            "virtual_gid_maps": f"static:{owner.pw_gid}",
            "virtual_minimum_uid": "1",
            "alias_maps": "",
            "alias_database": "",
            "smtputf8_enable": "yes",
            "bounce_queue_lifetime": "1h",
            "minimal_backoff_time": "1s",
            "maximal_backoff_time": "2s",
            "queue_run_delay": "1s",
        } | self.settings
        (self.etc / "main.cf").write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))

    def _write_master(self) -> None:
        stock = Path("/usr/share/postfix/master.cf.dist")
        services = [
            line
            for line in stock.read_text().splitlines()
            if not line.startswith("#") and not line.startswith("smtp  ")
        ]
        smtpd = f"{self.address}:{self.port} inet n - n - - smtpd"
        unchrooted = [_without_chroot(line) for line in services]
        (self.etc / "master.cf").write_text(
            "\n".join([smtpd, "smtp unix - - n - - smtp", *unchrooted, *self.services]) + "\n"
        )

    def set(self, name: str, value: str) -> None:
        """Change a setting while it runs."""
        subprocess.run([program("postconf"), "-c", str(self.etc), f"{name} = {value}"], check=True, timeout=30)
        self._postfix("reload")

    def submit(self, mail_from: str, recipients: list[str], content: bytes, *options: str) -> None:
        """Hand a message to this instance as a local program would, by its own sendmail command."""
        command = [program("sendmail"), "-C", str(self.etc), "-f", mail_from, *options, "--", *recipients]
        subprocess.run(command, input=content, check=True, capture_output=True, timeout=30)

    def mailbox(self) -> list[EmailMessage]:
        """Every message that was delivered here, as Python's parser reads it."""
        new = self.root / "mail" / "all" / "new"
        files = sorted(new.iterdir()) if new.exists() else []
        parser = BytesParser(policy=email_policy.default)
        return [parser.parsebytes(file.read_bytes()) for file in files]

    def wait_for_mail(self, wanted: Callable[[EmailMessage], bool], what: str, limit: float = 60) -> EmailMessage:
        found: list[EmailMessage] = []

        def arrived() -> bool:
            found[:] = [message for message in self.mailbox() if wanted(message)]
            return bool(found)

        wait_until(arrived, f"{what} in the mailbox of {self.hostname}", limit)
        return found[0]


def _without_chroot(line: str) -> str:
    fields = line.split()
    if len(fields) >= 8 and not line[0].isspace() and fields[4] == "y":
        fields[4] = "n"
        return " ".join(fields)
    return line


@contextlib.contextmanager
def unbound(root: Path, records: list[str], port: int | None = None) -> Iterator[str]:
    """Run unbound on loopback with these records ("name. 60 IN MX 10 host."); yield its "address:port"."""
    # Without an SOA record no answer that there is nothing could be kept (RFC 2308 §5), as no zone in the world has it.
    soa = "test. 3600 IN SOA ns.test. hostmaster.test. 1 3600 600 86400 3600"
    settings = ['module-config: "iterator"', 'local-zone: "test." static']
    settings += [f"local-data: '{record}'" for record in [soa, *records]]
    zones = 'forward-zone:\n    name: "."\n    forward-addr: 127.0.0.1@1\n'
    with running_unbound(root, settings, zones, port) as found:
        yield f"127.0.0.1:{found}"


@contextlib.contextmanager
def running_unbound(root: Path, settings: Sequence[str], zones: str, port: int | None = None) -> Iterator[int]:
    """Run unbound on loopback with these lines of its server clause, and these clauses of zones; yield its port."""
    port = port or free_port()
    root.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"    {line}\n" for line in settings)
    conf = root / "unbound.conf"
    conf.write_text(f"""
server:
    interface: 127.0.0.1@{port}
    access-control: 127.0.0.0/8 allow
    username: ""
    chroot: ""
    directory: "{root}"
    pidfile: "{root}/unbound.pid"
    use-syslog: no
    logfile: "{root}/unbound.log"
    do-daemonize: no
    do-not-query-localhost: no
    root-hints: ""
{lines}remote-control:
    control-enable: no
{zones}""")
    with running([program("unbound"), "-d", "-c", str(conf)], root / "unbound.out"):
        wait_until(lambda: answers("127.0.0.1", port), "unbound")
        yield port


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySite:
    """A policy host for nginx to serve: the policy file's text, and PEM files of its certificate and key."""

    domain: str
    policy: str
    certificate: Path
    key: Path


@contextlib.contextmanager
def nginx(root: Path, sites: list[PolicySite], port: int | None = None) -> Iterator[int]:
    """Run nginx on loopback with one TLS server per policy host; yield the port."""
    port = port or free_port()
    servers = []
    for site in sites:
        folder = root / "www" / site.domain / ".well-known"
        folder.mkdir(parents=True)
        (folder / "mta-sts.txt").write_bytes(site.policy.encode())
        servers.append(f"""
    server {{
        listen 127.0.0.1:{port} ssl;
        server_name mta-sts.{site.domain};
        ssl_certificate {site.certificate};
        ssl_certificate_key {site.key};
        root {root}/www/{site.domain};
    }}""")
    root.chmod(0o755)
    (root / "nginx.conf").write_text(f"""
daemon off;
worker_processes 1;
user root;
pid {root}/nginx.pid;
error_log {root}/error.log;
events {{ worker_connections 1024; }}
http {{
    server_names_hash_max_size {max(512, 4 * len(sites))};
    access_log {root}/access.log;
    types {{ text/plain txt; }}
    client_body_temp_path {root}/t1; proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3;
    uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5;
    {"".join(servers)}
}}
""")
    with running([program("nginx"), "-c", str(root / "nginx.conf"), "-p", str(root)], root / "nginx.out"):
        # It reads all certificates before it answers.
        wait_until(lambda: answers("127.0.0.1", port), "nginx", START_LIMIT + len(sites) * SITE_LIMIT)
        yield port


@contextlib.contextmanager
def running(command: list[str], output: Path, stdin: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the end of the block; what it prints goes to a file."""
    with output.open("wb") as log, subprocess.Popen(command, stdin=stdin, stdout=log, stderr=log) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()

"""The same pocket internet for every system: unbound, nginx with the policies, and the sink as all MX hosts.

It stands inside private_net.py's network, on the ports that real hosts have. Every domain is in `enforce`.
"""

import contextlib
import ipaddress
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from private_net import NAME_SERVER, prepare
from real_servers import PolicySite, nginx, unbound
from sink_client import Sink, SinkHost, running_sink

from relay.lab.ca import CertificateKind, LabCA

SMTP_PORT = 25
POLICY_PORT = 443
BAD_DOMAIN, BAD_HOST = "bad.test", "mx.bad.test"
"""Its MX host shows another host's certificate."""
PLAIN_DOMAIN, PLAIN_HOST = "plain.test", "mx.plain.test"
"""Its MX host offers no TLS."""
DOWN_DOMAIN = "down.test"
"""Nothing listens at its MX host."""
REFUSED = (BAD_HOST, PLAIN_HOST)
_POLICY_ADDRESS = "127.0.0.1"
_DOWN_ADDRESS = "127.0.0.2"
_FIRST_MX = ipaddress.IPv4Address("127.16.0.1")
_TTL = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """`mx_of` has the MX host of each domain that the sink serves, `addresses` the address of each such host."""

    root: Path
    ca_file: Path
    sink: Sink
    mx_of: Mapping[str, str]
    addresses: Mapping[str, str]


@contextlib.contextmanager
def stage(root: Path, domains: Sequence[str]) -> Iterator[Stage]:
    """Set the stage for these domains, one MX host for each, beside those that must get no mail."""
    root.chmod(0o755)  # Postfix' and nginx' own users read here
    prepare(root)
    ca = LabCA(root / "ca")
    served = [*domains, BAD_DOMAIN, PLAIN_DOMAIN]
    mx_of = {domain: f"mx.{domain}" for domain in served}
    hosts = {}
    for number, domain in enumerate(served):
        kind = CertificateKind.WRONG_NAME if domain == BAD_DOMAIN else CertificateKind.GOOD
        pem_file = None if domain == PLAIN_DOMAIN else ca.identity(kind, mx_of[domain]).pem_file
        hosts[mx_of[domain]] = SinkHost(address=str(_FIRST_MX + number), pem_file=pem_file)
    records, sites = [], []
    for domain in [*served, DOWN_DOMAIN]:
        host = hosts.get(f"mx.{domain}")
        records += _records(domain, host.address if host is not None else _DOWN_ADDRESS)
        sites.append(_site(domain, ca, root))
    with (
        unbound(root / "unbound", records, 53),
        nginx(_made(root / "nginx"), sites, POLICY_PORT),
        running_sink(root / "sink", hosts, mx_of, SMTP_PORT) as sink,
    ):
        addresses = {name: host.address for name, host in hosts.items()}
        yield Stage(root=root, ca_file=ca.ca_file, sink=sink, mx_of=mx_of, addresses=addresses)


def name_server() -> str:
    return f"{NAME_SERVER}:53"


def _records(domain: str, mx_address: str) -> list[str]:
    return [
        f"{domain}. {_TTL} IN MX 10 mx.{domain}.",
        f"mx.{domain}. {_TTL} IN A {mx_address}",
        f'_mta-sts.{domain}. {_TTL} IN TXT "v=STSv1; id=1;"',
        f"mta-sts.{domain}. {_TTL} IN A {_POLICY_ADDRESS}",
    ]


def _site(domain: str, ca: LabCA, root: Path) -> PolicySite:
    pem_file = ca.identity(CertificateKind.GOOD, f"mta-sts.{domain}").pem_file
    policy = f"version: STSv1\r\nmode: enforce\r\nmx: mx.{domain}\r\nmax_age: 86400\r\n"
    return PolicySite(domain=domain, policy=policy, certificate=pem_file, key=pem_file)


def _made(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    return directory

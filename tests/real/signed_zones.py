"""A signed zone with everything that can go wrong below it: knot as its name server, unbound as the one who validates.

`signed.test` is signed and unbound's only trust anchor. Below it `open.signed.test` is not signed, and the DS records
of `bogus.signed.test` and `_tcp.broken.signed.test` belong to other keys.
"""

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from real_servers import answers, free_port, program, running, running_unbound, wait_until

SIGNED, OPEN, BOGUS, BROKEN = "signed.test", "open.signed.test", "bogus.signed.test", "_tcp.broken.signed.test"
_SIGNED_ZONES = (SIGNED, BOGUS, BROKEN)
_FOREIGN_DS = f"12345 13 2 {'00' * 32}"
_DELEGATIONS = [f"{zone}. NS ns.{SIGNED}." for zone in (OPEN, BOGUS, BROKEN)] + [
    f"{zone}. DS {_FOREIGN_DS}" for zone in (BOGUS, BROKEN)
]


@contextlib.contextmanager
def signed_zones(root: Path, records: Sequence[str]) -> Iterator[int]:
    """Serve these records ("name. TYPE data") from the zones they belong to; yield the validating resolver's port."""
    zones: dict[str, list[str]] = {zone: [] for zone in (SIGNED, OPEN, BOGUS, BROKEN)}
    for record in [*records, *_DELEGATIONS]:
        name, rdtype, _ = record.split(" ", 2)
        zones[_zone_of(name.removesuffix("."), rdtype)].append(record)
    with _knot(root / "knot", zones) as (port, anchor), _unbound(root / "unbound", port, anchor) as resolver:
        yield resolver


def _zone_of(name: str, rdtype: str) -> str:
    """The deepest zone that the name is in; a delegation stands above its cut."""
    zones = (BROKEN, BOGUS, OPEN, SIGNED)
    if name in zones and rdtype in {"NS", "DS"}:
        return SIGNED
    return next(zone for zone in zones if name == zone or name.endswith(f".{zone}"))


@contextlib.contextmanager
def _knot(root: Path, zones: dict[str, list[str]]) -> Iterator[tuple[int, str]]:
    """Run knot, which signs; yield its port and the trust anchor of the upper zone."""
    (root / "db").mkdir(parents=True)
    port = free_port()
    for zone, records in zones.items():
        soa = f"{zone}. SOA ns.{SIGNED}. hostmaster.{SIGNED}. 1 3600 600 86400 60"
        lines = ["$TTL 300", soa, f"{zone}. NS ns.{SIGNED}.", *records]
        (root / f"{zone}.zone").write_text("\n".join(lines) + "\n")
    sections = "".join(
        f"  - domain: {zone}.\n    file: {root}/{zone}.zone\n    zonefile-sync: -1\n    journal-content: none\n"
        + ("    dnssec-signing: on\n    dnssec-policy: lab\n" if zone in _SIGNED_ZONES else "")
        for zone in zones
    )
    conf = root / "knot.conf"
    conf.write_text(f"""
server:
    listen: 127.0.0.1@{port}
    rundir: {root}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
database:
    storage: {root}/db
log:
  - target: {root}/knot.log
    any: info
policy:
  - id: lab
    algorithm: ecdsap256sha256
    single-type-signing: on
zone:
{sections}""")
    with running([program("knotd"), "-c", str(conf)], root / "knot.out"):
        wait_until(lambda: answers("127.0.0.1", port), "knot")
        wait_until(lambda: _log(root).count("loaded, serial") >= len(zones), "knot to load and sign its zones")
        command = [program("keymgr"), "-c", str(conf), SIGNED, "ds"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        anchor = next(line for line in done.stdout.splitlines() if " 13 2 " in line)
        yield port, anchor


def _log(root: Path) -> str:
    path = root / "knot.log"
    return path.read_text(errors="replace") if path.exists() else ""


@contextlib.contextmanager
def _unbound(root: Path, authority: int, anchor: str) -> Iterator[int]:
    """Run unbound, which validates from that anchor down and asks nobody but the name server at that port."""
    zones = "".join(
        f'stub-zone:\n    name: "{zone}"\n    stub-addr: 127.0.0.1@{authority}\n'
        for zone in (SIGNED, OPEN, BOGUS, BROKEN)
    )
    settings = [
        "do-ip6: no",
        'module-config: "validator iterator"',
        f'trust-anchor: "{anchor}"',
        'local-zone: "test." nodefault',
        "ede: yes",
    ]
    with running_unbound(root, settings, zones) as port:
        yield port

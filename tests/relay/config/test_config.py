"""config.toml: what is read, and what is said about what cannot be."""

import os
import re
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
from pydantic import BaseModel

from relay.config import ConfigError, Settings, laxities, load, parse, render
from relay.config.models import ListenerTable, RouteTable
from relay.config.quantities import HostPort

ROOT = Path(__file__).parents[3]
BASE = Path("/etc/mta-sts-relay")
LISTS: dict[str, type[BaseModel]] = {"listener": ListenerTable, "route": RouteTable}


def problems(text: str) -> list[str]:
    """Return what is said about the text, without the file's name."""
    with pytest.raises(ConfigError) as caught:
        parse(text, base=BASE)
    return [str(problem) for problem in caught.value.problems]


def test_the_shipped_file_spells_out_the_defaults() -> None:
    text = (ROOT / "config.toml").read_text(encoding="utf-8")
    assert parse(text, base=BASE) == parse("", base=BASE)


def with_route() -> str:
    """Return the shipped file with the # in front of the route taken away."""
    text = (ROOT / "config.toml").read_text(encoding="utf-8")
    return re.sub(r"^#(\[\[|\w+ = )", r"\1", text, flags=re.MULTILINE)


def test_the_route_in_the_shipped_file_spells_out_the_defaults() -> None:
    (route,) = parse(with_route(), base=BASE).route
    assert route == RouteTable(domains=route.domains)


def test_the_shipped_file_has_every_key() -> None:
    data = tomllib.loads(with_route())

    def keys(model: type[BaseModel]) -> set[str]:
        return set(model.model_fields)

    assert set(data) == keys(Settings)
    for name, field in Settings.model_fields.items():
        table = data[name][0] if name in LISTS else data[name]
        model = LISTS[name] if name in LISTS else type(field.default)
        assert set(table) == keys(model), name
    assert set(data["delivery"]["timeouts"]) == keys(type(Settings().delivery.timeouts))


def test_values_are_read() -> None:
    settings = parse(
        """
        [relay]
        hostname = "Relay.Bücher.example."
        postmaster = "post.master@Bücher.example"
        state_dir = "queue"
        stop_timeout = "500ms"
        [[listener]]
        address = "[::1]:2525"
        [[listener]]
        address = "0.0.0.0:465"
        tls = "implicit"
        certificate = "tls/chain.pem"
        key = "/secret/key.pem"
        [access]
        networks = ["10.0.0.0/8", "192.0.2.1"]
        sender_domains = ["Example.COM", "*.example.com"]
        [ingress]
        max_message_size = "512KiB"
        [queue]
        retry = ["1s", "1h"]
        delay_notice_after = "never"
        [dns]
        nameservers = ["192.0.2.53", "::1", "[2001:db8::53]:5353"]
        trust_ad = true
        [mta_sts]
        mode = "report-only"
        unknown_grace = "forever"
        [delivery.timeouts]
        data_end = "20m"
        [ndr]
        route = ["smtp://mail.internal.example:2525", "smtp://192.0.2.9"]
        """,
        base=BASE,
    )
    assert settings.relay.hostname == "relay.xn--bcher-kva.example"
    assert settings.relay.postmaster == "post.master@xn--bcher-kva.example"
    assert settings.relay.state_dir == BASE / "queue"
    assert settings.relay.stop_timeout == timedelta(milliseconds=500)
    assert [listener.address for listener in settings.listener] == [HostPort("::1", 2525), HostPort("0.0.0.0", 465)]
    assert settings.listener[1].certificate == BASE / "tls/chain.pem"
    assert settings.listener[1].key == Path("/secret/key.pem")
    assert settings.access.networks == (ip_network("10.0.0.0/8"), ip_network("192.0.2.1/32"))
    assert settings.access.sender_domains == ("example.com", "*.example.com")
    assert settings.ingress.max_message_size == 512 * 1024
    assert settings.queue.retry == (timedelta(seconds=1), timedelta(hours=1))
    assert settings.queue.delay_notice_after is None
    assert settings.dns.nameservers == (
        HostPort("192.0.2.53", 53),
        HostPort("::1", 53),
        HostPort("2001:db8::53", 5353),
    )
    assert settings.dns.trust_ad is True
    assert settings.mta_sts.mode == "report-only"
    assert settings.mta_sts.unknown_grace is None
    assert settings.delivery.timeouts.data_end == timedelta(minutes=20)
    assert settings.ndr.route == (HostPort("mail.internal.example", 2525), HostPort("192.0.2.9", 25))


def test_what_is_rendered_reads_back_the_same() -> None:
    text = """
        [relay]
        state_dir = '/var/lib/a "quoted" one'
        [[listener]]
        address = "[::1]:2525"
        [[listener]]
        address = "127.0.0.1:2526"
        [queue]
        delay_notice_after = "never"
        [dns]
        nameservers = ["::1"]
        trust_ad = false
        [mta_sts]
        unknown_grace = "forever"
        [ndr]
        route = ["smtp://[::1]:2525"]
        [delivery]
        source_addresses = ["192.0.2.1"]
        """
    settings = parse(text, base=BASE)
    assert parse(render(settings), base=BASE) == settings


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[relay]\nhostnam = 'x'", "line 2: relay.hostnam: unknown key"),
        ("[relays]\nhostname = 'x'", "line 1: relays: unknown table"),
        ("[dane]\nmode = 'mandatory'", "line 2: dane.mode: must be 'opportunistic' or 'off'"),
        (
            "[dane]\nmode = 'off'\nprecedence = 'dane-first'",
            'line 3: dane.precedence: has no use with mode = "off"',
        ),
        ("[requiretls]\nmode = 'always'", "line 2: requiretls.mode: must be 'on' or 'off'"),
        ("[requiretls]\ntls_required_no = true", "line 2: requiretls.tls_required_no: must be 'ignore' or 'honour'"),
        ("[tlsrpt]\nmode = true", "line 2: tlsrpt.mode: must be 'on' or 'off'"),
        ("[tlsrpt]\nmode = 'on'", 'line 1: tlsrpt.organization_name: is needed with mode = "on"'),
        ("[tlsrpt]\nmode = 'on'\ncontact = ''", 'line 3: tlsrpt.contact: is needed with mode = "on"'),
        ("[tlsrpt]\nmode = 'on'\ndkim_key_file = ''", 'line 3: tlsrpt.dkim_key_file: is needed with mode = "on"'),
        ("[tlsrpt]\ncontact = 'x'", "line 2: tlsrpt.contact: must be a mail address such as"),
        ("[tlsrpt]\ncontact = 5", "line 2: tlsrpt.contact: must be a mail address such as"),
        ("[tlsrpt]\ndkim_domain = 5", "line 2: tlsrpt.dkim_domain: must be a domain name"),
        ("[tlsrpt]\ndkim_selector = 'a b'", 'must be a selector such as "tlsrpt" or "tlsrpt.2026"'),
        ("[tlsrpt]\norganization_name = 5", "line 2: tlsrpt.organization_name: must be text in quotes"),
        (
            "[tlsrpt]\nmode = 'on'\ncontact = 'a@x.test'\ndkim_domain = 'y.test'",
            "line 4: tlsrpt.dkim_domain: must be x.test, the domain of tlsrpt.contact",
        ),
        ("[route]\ndomains = ['x']", "line 1: route: must be written as [[route]]"),
        ("log = 'x'", "line 1: log: must be a table"),
        ("[listener]\ntls = 'none'", "line 1: listener: must be written as [[listener]]"),
        ("listener = []", "line 1: listener: must not be empty"),
        ("[relay]\nhostname = 5", "line 2: relay.hostname: must be a domain name"),
        ("[relay]\npostmaster = 'postmaster'", 'must be a mail address such as "postmaster@example.com"'),
        ("[relay]\nstate_dir = ''", "relay.state_dir: must be the path of a directory"),
        ("[relay]\nstop_timeout = 25", 'must be a duration such as "30s", "15m", "1h" or "7d"'),
        ("[relay]\nstop_timeout = '1.5h'", "must be a duration such as"),
        ("[relay]\nstop_timeout = '0s'", "must be longer than 0s"),
        ("[relay]\nstop_timeout = '99999d'", 'must be a duration of at most "3660d"'),
        ("[relay]\nworkers = 65\n[delivery]\nmax_connections_per_destination = 99", "workers: must be at most 64"),
        ("[relay]\nworkers = 21", "line 2: relay.workers: must be at most delivery.max_connections_per_destination"),
        ("[relay]\nworkers = 4\n[delivery]\nmax_connections = 3", "must be at most delivery.max_connections, as each"),
        ("[relay]\nworkers = 4\n[access]\nmax_connections = 3", "must be at most access.max_connections, as each"),
        (
            "[relay]\nworkers = 4\n[access]\nmax_messages_per_minute_per_client = 3",
            "must be at most access.max_messages_per_minute_per_client",
        ),
        ("[relay]\nworkers = 0", "relay.workers: must be at least 1"),
        ("[relay]\nworkers = '1'", "relay.workers: must be a whole number"),
        ("[relay]\nworkers = true", "relay.workers: must be a whole number"),
        ("[[listener]]\naddress = 'localhost:25'", 'an address with a port such as "127.0.0.1:2525" or "[::1]:2525"'),
        ("[[listener]]\naddress = '::1:25'", "an address with a port such as"),
        ("[[listener]]\naddress = '127.0.0.1:70000'", "a port between 0 and 65535"),
        ("[[listener]]\ntls = 'yes'", "must be 'none', 'starttls', 'starttls-required' or 'implicit'"),
        ("[[listener]]\nproxy_protocol = 1", "must be true or false"),
        ("[[listener]]\nproxy_protocol = true", "needs access.proxies"),
        (
            "[access]\nproxies = ['10.0.0.1']\n[[listener]]\ntls = 'implicit'\nproxy_protocol = true",
            'line 5: listener[1].proxy_protocol: does not go together with tls = "implicit"',
        ),
        ("[[listener]]\ncertificate = 'a.pem'", 'line 2: listener[1].certificate: has no use with tls = "none"'),
        ("[[listener]]\ntls = 'implicit'", 'listener[1].key: is needed with tls = "implicit"'),
        ("[[listener]]\n[[listener]]", "line 2: listener[2].address: the same as listener[1].address"),
        ("[http]\naddress = '127.0.0.1:2525'", "listener[1].address: the same as http.address"),
        ("[access]\nnetworks = []", "line 2: access.networks: nobody may send"),
        ("[access]\nnetworks = '10.0.0.0/8'", 'access.networks: must be a list such as ["..."]'),
        ("[access]\nnetworks = ['10.0.0.1/8']", "access.networks[1]: must be a network such as"),
        ("[access]\nnetworks = ['10.0.0.1/8']", "did you mean 10.0.0.0/8?"),
        ("[access]\nusers_file = 'users'", "needs a listener with TLS"),
        ("[access]\ncertificates = ['mail.example.com']", "needs a listener with client_ca"),
        ("[access]\ncertificates = ['a b']", "a SHA-256 fingerprint of 64 hexadecimal digits or a DNS name"),
        ("[ingress]\nmax_message_size = '150MB'", 'must be a size such as "512KiB" or "150MiB"'),
        ("[ingress]\nmax_message_size = 150", 'must be a size such as "512KiB" or "150MiB"'),
        ("[store]\nurl = 'postgresql://db/queue'", "store.url: this version supports sqlite only"),
        ("[store]\nurl = 'mysql://db'", 'store.url: must be "sqlite"'),
        ("[queue]\nretry = []", "queue.retry: must not be empty"),
        ("[queue]\ndelay_notice_after = 'no'", 'must be a duration such as "30s", "15m", "1h" or "7d", or "never"'),
        ("[queue]\ndelay_notice_after = '6d'", 'must be shorter than queue.expire_after, or "never"'),
        ("[queue]\nexpire_refused_after = '6d'", "must not be longer than queue.expire_after"),
        ("[dns]\nnameservers = ['ns.example.com']", "an IP address, with or without a port"),
        ("[dns]\ntrust_ad = 'yes'", "dns.trust_ad: must be 'auto', True or False"),
        ("[mta_sts]\nmode = 'report'", "must be 'enforce', 'report-only' or 'off'"),
        ("[tls]\nminimum_version = '1.1'", "must be '1.2' or '1.3'"),
        ("[tls]\nopportunistic_minimum_version = '1.3'", "must not be above tls.minimum_version"),
        ("[delivery]\nsource_addresses = ['x']", 'must be an IP address such as "192.0.2.1"'),
        ("[delivery]\nsmtp_port = 65536", "must be at most 65535"),
        ("[delivery]\ntimeouts.greeting = '5'", "line 2: delivery.timeouts.greeting: must be a duration"),
        ("[delivery]\ntimeouts = {greeting = '5'}", "line 2: delivery.timeouts.greeting: must be a duration"),
        ("[ndr]\nroute = ['mail.internal.example']", 'must be written as "smtp://host:port"'),
        ("[ndr]\nroute = ['smtps://mail.internal.example']", 'must be written as "smtp://host:port"'),
        ("[log]\nlevel = 'trace'", "must be 'debug', 'info', 'warning' or 'error'"),
        ("[relay", "is not TOML: "),
    ],
)
def test_an_error_names_the_key_in_plain_words(text: str, told: str) -> None:
    assert told in "\n".join(problems(text))


def test_all_errors_are_told_at_once_with_their_lines() -> None:
    told = problems(
        """[relay]
workers = 30
hostnam = "x"

[[listener]]
tls = "starttls"

[access]
networks = [
    "10.0.0.0/8",
    "nowhere",
]
users_file = 7

[queue]
retry = ["1x"]
"""
    )
    assert told == [
        "line 2: relay.workers: must be at most delivery.max_connections_per_destination, as each needs one of them",
        "line 3: relay.hostnam: unknown key",
        'line 5: listener[1].certificate: is needed with tls = "starttls"',
        'line 5: listener[1].key: is needed with tls = "starttls"',
        'line 9: access.networks[2]: must be a network such as "10.0.0.0/8" or "::1/128"',
        "line 13: access.users_file: must be a path in quotes",
        'line 16: queue.retry[1]: must be a duration such as "30s", "15m", "1h" or "7d"',
    ]


def test_no_error_speaks_of_the_library() -> None:
    everything = "\n".join(
        problems("x = 1\n[relay]\nworkers = []\n[log]\nlevel = {}\n[queue]\nretry = 3\n[http]\nhosts = [1]")
    )
    for word in ("pydantic", "input", "valid", "Extra", "type="):
        assert word not in everything


def write(file: Path, text: str) -> Path:
    file.write_text(text, encoding="utf-8")
    return file


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
        load(tmp_path / "none.toml")


def test_a_file_that_is_not_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load(tmp_path / "config.toml")


def test_looking_at_a_file_makes_nothing(tmp_path: Path) -> None:
    settings = load(write(tmp_path / "config.toml", "[relay]\nstate_dir = 'a/b'"))
    assert settings.relay.state_dir == tmp_path / "a/b"
    assert not (tmp_path / "a").exists()


def test_a_state_directory_that_cannot_be_one_is_told(tmp_path: Path) -> None:
    write(tmp_path / "file", "")
    with pytest.raises(ConfigError, match=r"line 2: relay\.state_dir: .*file is not a directory"):
        load(write(tmp_path / "config.toml", "[relay]\nstate_dir = 'file/state'"))


@contextmanager
def as_nobody() -> Iterator[None]:
    """Give up root's right to write anywhere, if we have it."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_state_directory_that_cannot_be_written_is_told() -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        (Path(directory) / "state").mkdir(mode=0o555)
        write(Path(directory) / "config.toml", "")
        with as_nobody(), pytest.raises(ConfigError, match="state is not writable"):
            load(Path(directory) / "config.toml")


def test_a_state_directory_that_cannot_be_reached_is_told() -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        (Path(directory) / "closed").mkdir(mode=0o000)
        write(Path(directory) / "config.toml", "[relay]\nstate_dir = 'closed/state'")
        with as_nobody(), pytest.raises(ConfigError, match=r"closed/state cannot be reached"):
            load(Path(directory) / "config.toml")


def make_certificate(directory: Path, name: str) -> None:
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=x"
    files = ["-keyout", str(directory / f"{name}.key"), "-out", str(directory / f"{name}.pem")]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)


def test_files_that_cannot_be_used_are_told_all_at_once(tmp_path: Path) -> None:
    make_certificate(tmp_path, "a")
    make_certificate(tmp_path, "b")
    write(tmp_path / "junk.pem", "junk")
    text = """
[access]
users_file = "users"
[tls]
ca_file = "junk.pem"
[[listener]]
tls = "starttls"
certificate = "a.pem"
key = "b.key"
client_ca = "none.pem"
[[listener]]
address = "127.0.0.1:465"
tls = "implicit"
certificate = "a.pem"
key = "none.key"
"""
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path / "config.toml", text))
    assert [str(problem).replace(str(tmp_path), "") for problem in caught.value.problems] == [
        "line 3: access.users_file: /users cannot be read: No such file or directory",
        "line 5: tls.ca_file: /junk.pem cannot be used: NO_CERTIFICATE_OR_CRL_FOUND",
        "line 8: listener[1].certificate: /a.pem does not belong to the key",
        "line 10: listener[1].client_ca: /none.pem cannot be read: No such file or directory",
        "line 15: listener[2].key: /none.key cannot be read: No such file or directory",
    ]


def test_files_that_can_be_used_are_accepted(tmp_path: Path) -> None:
    make_certificate(tmp_path, "a")
    text = '[[listener]]\ntls = "starttls"\ncertificate = "a.pem"\nkey = "a.key"\nclient_ca = "a.pem"\n'
    assert load(write(tmp_path / "config.toml", text)).listener[0].client_ca == tmp_path / "a.pem"


TLSRPT = """
[tlsrpt]
mode = "on"
organization_name = "Example Ltd"
contact = "tls-reports@example.com"
dkim_domain = "Example.com."
dkim_selector = "TLSRPT.2026"
dkim_key_file = "key.pem"
"""


def make_key(file: Path, kind: str = "RSA", bits: int = 2048) -> None:
    size = "rsa_keygen_bits" if kind == "RSA" else "ec_paramgen_curve"
    command = ["openssl", "genpkey", "-algorithm", kind, "-pkeyopt", f"{size}:{bits if kind == 'RSA' else 'P-256'}"]
    subprocess.run([*command, "-out", str(file)], check=True, capture_output=True)


def test_the_settings_of_tls_reports_are_read_and_kept(tmp_path: Path) -> None:
    make_key(tmp_path / "key.pem")
    settings = load(write(tmp_path / "config.toml", TLSRPT))
    tlsrpt = settings.tlsrpt
    assert (tlsrpt.dkim_domain, tlsrpt.dkim_selector) == ("example.com", "tlsrpt.2026")
    assert tlsrpt.dkim_key_file == tmp_path / "key.pem"
    assert parse(render(settings), base=tmp_path) == settings


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("none", "cannot be read: No such file or directory; to make one: openssl genrsa -out "),
        ("junk", "holds no private key in PEM without a passphrase; to make one: "),
        ("EC", "is not an RSA key, which every verifier knows; to make one: "),
        ("small", "has 512 bits, fewer than 1024; to make one: "),
    ],
)
def test_a_key_that_cannot_sign_reports_is_told(tmp_path: Path, kind: str, told: str) -> None:
    key = tmp_path / "key.pem"
    match kind:
        case "junk":
            write(key, "junk")
        case "EC":
            make_key(key, "EC")
        case "small":
            make_key(key, bits=512)
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path / "config.toml", TLSRPT))
    (problem,) = caught.value.problems
    assert str(problem).startswith(f"line 8: tlsrpt.dkim_key_file: {key} {told}")


def test_with_tls_reports_off_no_key_is_looked_at(tmp_path: Path) -> None:
    assert load(write(tmp_path / "config.toml", TLSRPT.replace('"on"', '"off"'))).tlsrpt.mode == "off"


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("enforce", ()),
        ("report-only", ("delivers what policies (MTA-STS) forbid", "`mta-sts-relay report enforcement`")),
        ("off", ("any TLS or none", "`mta-sts-relay report enforcement`")),
    ],
)
def test_what_protects_less_is_said(mode: str, says: tuple[str, ...]) -> None:
    told = [str(one) for one in laxities(parse(f'[mta_sts]\nmode = "{mode}"\n', base=Path("/")))]
    assert len(told) == bool(says)
    assert all(text in told[0] for text in says)
    assert all(one.startswith("mta_sts.mode: ") for one in told)


@pytest.mark.rfc("8689-3-g")
def test_a_field_that_any_sender_can_write_is_not_honoured_in_silence() -> None:
    (told,) = laxities(parse('[requiretls]\ntls_required_no = "honour"\n', base=Path("/")))
    assert str(told).startswith("requiretls.tls_required_no: ")
    assert "in plain text" in str(told)

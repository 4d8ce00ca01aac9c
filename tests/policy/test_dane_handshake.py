"""Sessions against TLSA records in real handshakes, and OpenSSL's own opinion of them (RFC 7672 §3)."""

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from dane_cases import FAILS, MX, NO_MATCH, PASSES, demand, not_trusted, record, verdict
from real_servers import answers, free_port, program, wait_until

from policy.answers import TlsaRecord
from policy.dane import usable
from policy.dane_check import MAX_CHAIN, dane_failure
from policy.requirement import DaneDemand, Level, Requirement
from policy.tls import TlsContexts, classify
from policy.tls_facts import TlsFailure
from relay.lab.ca import Identity, LabCA

CONTEXTS = TlsContexts()


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> LabCA:
    return LabCA(tmp_path_factory.mktemp("ca"))


@contextlib.asynccontextmanager
async def tls_server(identity: Identity, seen: list[str | None]) -> AsyncIterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.pem_file)

    def note(_: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
        seen.append(name)

    context.sni_callback = note

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def session(port: int, requirement: Requirement, version: ssl.TLSVersion | None = None) -> TlsFailure | None:
    context = CONTEXTS.for_requirement(requirement)
    if version is not None:
        context = TlsContexts().for_requirement(requirement)
        context.minimum_version = context.maximum_version = version
    try:
        _, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname=requirement.server_name
        )
    except (OSError, EOFError) as error:
        return classify(error)
    failure = dane_failure(requirement, writer.get_extra_info("ssl_object"))
    writer.close()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()
    return failure


def requirement(*records: TlsaRecord, level: Level = Level.OPPORTUNISTIC) -> Requirement:
    return Requirement(level=level, mx_host=MX, dane=demand(*records))


@pytest.mark.rfc("7672-3-c", "7672-8.1-a")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    "case",
    [
        "EE: expired",
        "EE: the second of two",
        "TA: the root",
        "TA: an intermediate",
        "TA: bare key of the root, not sent",
    ],
)
async def test_a_session_that_passes(ca: LabCA, case: str, version: ssl.TLSVersion) -> None:
    identity, records = PASSES[case](ca)
    seen: list[str | None] = []
    async with tls_server(identity, seen) as port:
        assert await session(port, requirement(*records), version) is None
    assert seen == [MX]


@pytest.mark.rfc("7672-3-c", "7672-2.2-a", "7672-9.1-b")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    "case",
    ["EE: another certificate", "TA: another CA", "TA: another name", "TA: expired", "TA: an intermediate has expired"],
)
async def test_a_session_that_does_not(ca: LabCA, case: str, version: ssl.TLSVersion) -> None:
    make, expected = FAILS[case]
    identity, records = make(ca)
    async with tls_server(identity, []) as port:
        assert verdict(await session(port, requirement(*records), version)) == expected


async def test_of_an_endless_chain_only_the_beginning_is_looked_at(ca: LabCA, tmp_path: Path) -> None:
    identity = ca.issue([MX], send_root=True)
    padded = tmp_path / "padded.pem"
    intermediate = ca.intermediate.certificate.public_bytes(serialization.Encoding.PEM)
    root = ca.root.certificate.public_bytes(serialization.Encoding.PEM)
    # After key and leaf the same intermediate again and again, and the anchor last of all.
    key_and_leaf = identity.pem_file.read_bytes().removesuffix(intermediate + root)
    padded.write_bytes(key_and_leaf + intermediate * (MAX_CHAIN + 5) + root)
    endless = replace(identity, pem_file=padded)
    async with tls_server(endless, []) as port:
        assert verdict(await session(port, requirement(record(2, 0, 1, ca.root.certificate)))) == NO_MATCH
        assert await session(port, requirement(record(2, 0, 1, ca.intermediate.certificate))) is None


@pytest.mark.rfc("7672-2.2-b", "7672-3.1.3-a")
async def test_with_no_usable_record_any_certificate_will_do(ca: LabCA) -> None:
    nothing = DaneDemand(base_domain=MX, reference_names=(MX,), records=())
    async with tls_server(ca.issue(["else.test"], self_signed=True), []) as port:
        assert await session(port, Requirement(level=Level.OPPORTUNISTIC, mx_host=MX, dane=nothing)) is None
        assert await session(port, Requirement(level=Level.OPPORTUNISTIC, mx_host=MX)) is None


@pytest.mark.rfc("7672-h-b", "8461-2-a", "8461-2-b", "7672-h-0", "7672-3.2-b")
async def test_under_both_a_certificate_has_to_pass_both(ca: LabCA) -> None:
    contexts = TlsContexts(ca_file=str(ca.ca_file))
    good, private = ca.issue([MX]), ca.issue([MX], self_signed=True)
    matching, other = record(3, 1, 1, good.certificate), record(3, 1, 1, ca.root.certificate)

    async def under_both(identity: Identity, wanted: TlsaRecord) -> TlsFailure | None:
        both = requirement(wanted, level=Level.VERIFIED)
        async with tls_server(identity, []) as port:
            try:
                _, writer = await asyncio.open_connection(
                    "127.0.0.1", port, ssl=contexts.for_requirement(both), server_hostname=both.server_name
                )
            except ssl.SSLError as error:
                return classify(error)
            failure = dane_failure(both, writer.get_extra_info("ssl_object"))
            writer.close()
            return failure

    assert await under_both(good, matching) is None
    assert verdict(await under_both(good, other)) == NO_MATCH
    assert verdict(await under_both(private, record(3, 1, 1, private.certificate))) == not_trusted("UntrustedRoot")


# OpenSSL's own server, and its own opinion.


@contextlib.contextmanager
def s_server(identity: Identity, directory: Path) -> Iterator[int]:
    port = free_port()
    chain = directory / "chain.pem"
    chain.write_bytes(b"".join(one.public_bytes(serialization.Encoding.PEM) for one in identity.chain))
    command = [program("openssl"), "s_server", "-accept", f"127.0.0.1:{port}", "-key", str(identity.pem_file)]
    command += ["-cert", str(identity.pem_file), "-quiet"] + (["-cert_chain", str(chain)] if identity.chain else [])
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            wait_until(lambda: answers("127.0.0.1", port), "openssl s_server")
            yield port
        finally:
            server.terminate()
            server.wait(10)


def opinion_of_openssl(port: int, records: Sequence[TlsaRecord]) -> bool:
    """Whether `openssl s_client` takes the host under these records; it knows one more reference name at most."""
    command = [program("openssl"), "s_client", "-connect", f"127.0.0.1:{port}", "-dane_tlsa_domain", MX]
    command += ["-verify_return_error", "-dane_ee_no_namechecks"]
    for one in records:
        command += ["-dane_tlsa_rrdata", f"{one.usage} {one.selector} {one.matching_type} {one.data.hex()}"]
    done = subprocess.run(command, input=b"", capture_output=True, timeout=30, check=False)
    return b"Verification: OK" in done.stdout


@pytest.mark.real
@pytest.mark.rfc("6698-2-a", "6698-6-a", "7672-3.1.1-a", "7672-3.1.2-a")
@pytest.mark.parametrize("matches", [True, False], ids=["matching", "mismatch"])
@pytest.mark.parametrize("matching_type", [0, 1, 2])
@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("usage", [2, 3])
async def test_each_kind_of_record_against_openssl(
    ca: LabCA, tmp_path: Path, usage: int, selector: int, matching_type: int, matches: bool
) -> None:
    identity = ca.issue([MX], send_root=True)
    meant = ca.root.certificate if usage == 2 else identity.certificate
    other = ca.stranger.certificate if usage == 2 else ca.issue([MX]).certificate
    one = record(usage, selector, matching_type, meant if matches else other)
    with s_server(identity, tmp_path) as port:
        assert (await session(port, requirement(one)) is None) is matches
        assert await asyncio.to_thread(opinion_of_openssl, port, [one]) is matches


# RFC 7672 §3.2.3 forbids partial wildcards, which OpenSSL takes unless it is told not to.
ASKED_OF_OPENSSL = [case for case in (*PASSES, *FAILS) if case != "TA: a partial wildcard"]


@pytest.mark.real
@pytest.mark.parametrize("case", ASKED_OF_OPENSSL)
async def test_openssl_is_of_the_same_opinion(ca: LabCA, tmp_path: Path, case: str) -> None:
    identity, records = PASSES[case](ca) if case in PASSES else FAILS[case][0](ca)
    wanted = DaneDemand(base_domain=MX, reference_names=(MX,), records=usable(records))
    with s_server(identity, tmp_path) as port:
        ours = await session(port, Requirement(level=Level.OPPORTUNISTIC, mx_host=MX, dane=wanted))
        theirs = await asyncio.to_thread(opinion_of_openssl, port, records)
    assert (ours is None) is theirs

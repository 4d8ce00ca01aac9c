"""Certificates of the lab, judged by OpenSSL in memory."""

import ssl
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from real_servers import program

from relay.lab.ca import CertificateKind, Identity, LabCA, new_authority, tlsa_record
from relay.lab.wire import server_context

HOST = "mx1.example.test"

VERDICTS = {
    CertificateKind.GOOD: "",
    CertificateKind.WILDCARD: "",
    CertificateKind.EXPIRED: "certificate has expired",
    CertificateKind.NOT_YET_VALID: "certificate is not yet valid",
    CertificateKind.WRONG_NAME: "Hostname mismatch",
    CertificateKind.SELF_SIGNED: "self-signed certificate",
    CertificateKind.UNKNOWN_CA: "unable to get local issuer certificate",
    CertificateKind.MISSING_INTERMEDIATE: "unable to get local issuer certificate",
    CertificateKind.CN_ONLY: "Hostname mismatch",
    CertificateKind.CN_ONLY_IP_SAN: "Hostname mismatch",
    CertificateKind.PARTIAL_WILDCARD: "Hostname mismatch",
    CertificateKind.CLIENT_ONLY: "unsuitable certificate purpose",
}


def judge(ca_file: Path, identity: Identity, host: str = HOST) -> str:
    """Shake hands in memory; return why the client refuses, "" where it does not."""
    trusting = ssl.create_default_context(cafile=str(ca_file))
    trusting.hostname_checks_common_name = False
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(to_client, to_server, server_hostname=host)
    server = server_context(identity).wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as error:
            return error.verify_message
    assert client.version() == "TLSv1.3"
    return ""


def test_every_kind_has_a_verdict() -> None:
    assert set(VERDICTS) == set(CertificateKind)


@pytest.mark.parametrize("kind", CertificateKind, ids=lambda kind: kind.name)
def test_a_client_sees_what_is_wrong(kind: CertificateKind, tmp_path: Path) -> None:
    ca = LabCA(tmp_path)
    reason = judge(ca.ca_file, ca.identity(kind, HOST))
    assert VERDICTS[kind] in reason
    assert bool(reason) == bool(VERDICTS[kind])


def test_the_same_certificate_is_given_again(tmp_path: Path) -> None:
    ca = LabCA(tmp_path)
    assert ca.identity(CertificateKind.GOOD, HOST) is ca.identity(CertificateKind.GOOD, HOST)
    assert ca.identity(CertificateKind.GOOD, HOST) is not ca.identity(CertificateKind.EXPIRED, HOST)


def test_a_certificate_may_name_others_than_the_host(tmp_path: Path) -> None:
    ca = LabCA(tmp_path)
    identity = ca.identity(CertificateKind.GOOD, "other.test", "more.test")
    assert judge(ca.ca_file, identity, "more.test") == ""
    assert "Hostname mismatch" in judge(ca.ca_file, identity)


def test_a_name_longer_than_a_subject_stands_in_the_san(tmp_path: Path) -> None:
    ca = LabCA(tmp_path)
    name = f"{'a' * 60}.{'b' * 60}.test"
    assert judge(ca.ca_file, ca.identity(CertificateKind.GOOD, name), name) == ""


def test_two_cas_do_not_trust_each_other(tmp_path: Path) -> None:
    ours, theirs = LabCA(tmp_path / "a"), LabCA(tmp_path / "b")
    assert judge(ours.ca_file, theirs.issue([HOST])) != ""


@pytest.mark.real
@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching_type", [0, 1, 2])
def test_a_tlsa_record_is_what_openssl_computes(tmp_path: Path, selector: int, matching_type: int) -> None:
    identity = LabCA(tmp_path).identity(CertificateKind.GOOD, HOST)
    usage, *numbers, data = tlsa_record(3, selector, matching_type, identity.certificate).split(" ")
    assert (usage, numbers) == ("3", [str(selector), str(matching_type)])
    pem = tmp_path / "leaf.pem"
    pem.write_bytes(identity.certificate.public_bytes(serialization.Encoding.PEM))
    openssl = program("openssl")
    to_key = f" -noout -pubkey | {openssl} pkey -pubin" if selector else ""
    command = f"{openssl} x509 -in {pem}{to_key} -outform DER"
    digest = {0: "cat", 1: f"{openssl} sha256 -binary", 2: f"{openssl} sha512 -binary"}[matching_type]
    done = subprocess.run(f"{command} | {digest}", shell=True, capture_output=True, check=True)
    assert bytes.fromhex(data) == done.stdout


def test_the_root_is_sent_where_it_is_asked_for(tmp_path: Path) -> None:
    ca = LabCA(tmp_path)
    other = new_authority("Below", issuer=ca.intermediate, path_length=0, permitted=["x.test"])
    assert ca.issue([HOST], issuer=other).chain == (other.certificate, ca.intermediate.certificate)
    chain = (other.certificate, ca.intermediate.certificate, ca.root.certificate)
    assert ca.issue([HOST], issuer=other, send_root=True).chain == chain

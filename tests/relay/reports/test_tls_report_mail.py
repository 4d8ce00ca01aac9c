"""The report as mail (RFC 8460 §5.3), and its DKIM signature as dkimpy verifies it."""

import gzip
import json
import re
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from pathlib import Path

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from parsedmarc import parse_report_email
from tls_report_makers import NOW, report, result

from policy.tlsrpt import MailEndpoint
from relay.dkim import DkimSigner, KeyUnusableError
from relay.reports.tlsrpt import as_json
from relay.reports.tlsrpt_mail import SIGNED_FIELDS, build_mail

TO = MailEndpoint("reports@mail.company-y.example", "mail.company-y.example")


def parsed(message: bytes) -> EmailMessage:
    found = BytesParser(policy=policy.default).parsebytes(message)
    assert isinstance(found, EmailMessage)
    assert not found.defects
    return found


def write_key(path: Path, key: PrivateKeyTypes, passphrase: bytes = b"") -> Path:
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    return path


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> DkimSigner:
    path = tmp_path_factory.mktemp("dkim") / "key.pem"
    write_key(path, rsa.generate_private_key(65537, 2048))
    return DkimSigner.load(domain="company-x.example", selector="tlsrpt", key_file=path)


@pytest.mark.rfc("8460-5.3-b", "8460-5.3-c", "8460-5.3-d", "8460-5.6-a", "8460-5.1-b")
def test_two_parts_the_second_of_which_is_the_report() -> None:
    made = report()
    found = parsed(build_mail(made, TO, 0, NOW))
    assert found.get_content_type() == "multipart/report"
    assert found["Content-Type"].params["report-type"] == "tlsrpt"
    text, attached = found.iter_parts()
    assert text.get_content_type() == "text/plain"
    assert "company-y.example" in text.get_content()
    assert attached.get_content_type() == "application/tlsrpt+gzip"
    assert attached["Content-Transfer-Encoding"] == "base64"
    assert attached.get_content_disposition() == "attachment"
    assert attached.get_filename() == made.filename
    assert json.loads(gzip.decompress(attached.get_content())) == as_json(made)


@pytest.mark.rfc(
    "8460-5.3-e", "8460-5.3-f", "8460-5.3-h", "8460-5.3-i", "8460-5.3-j", "8460-5.3-k", "8460-5.5-d", "8460-3-ab",
    "8460-4.4-d",
)  # fmt: skip
def test_the_header() -> None:
    message = build_mail(report(), TO, 1, NOW)
    found = parsed(message)
    assert re.fullmatch(
        r"Report Domain: company-y\.example Submitter: company-x\.example Report-ID: <01J9ZK3V@company-x\.example>",
        found["Subject"],
    )
    assert found.get_all("TLS-Report-Domain") == ["company-y.example"]
    assert found.get_all("TLS-Report-Submitter") == ["company-x.example"]
    assert found["From"] == "tls-reports@company-x.example"
    assert found["To"] == "reports@mail.company-y.example"
    assert found["TLS-Required"] == "No"
    assert found["Auto-Submitted"] == "auto-generated"
    assert found["Message-ID"] == "<01J9ZK3V.1@company-x.example>"
    assert found["Date"].datetime == NOW
    assert found["MIME-Version"] == "1.0"
    assert message.isascii()
    assert all(len(line) <= 998 and b"\r" not in line and b"\n" not in line for line in message.split(b"\r\n"))


@pytest.mark.rfc("8460-5.3-i")
def test_a_retry_is_the_same_report() -> None:
    first, again = (parsed(build_mail(report(), TO, 0, NOW)) for _ in range(2))
    assert (first["Subject"], first["Message-ID"]) == (again["Subject"], again["Message-ID"])


def test_the_longest_names_still_make_a_message() -> None:
    domain = ".".join(["a" * 63] * 3 + ["b" * 61])
    made = parsed(build_mail(report(result(), domain=domain), MailEndpoint(f"{'l' * 64}@{domain}", domain), 4, NOW))
    assert made["TLS-Report-Domain"] == domain


@pytest.mark.rfc("8460-7-b")
def test_parsedmarc_reads_the_whole_message(signer: DkimSigner) -> None:
    found = parse_report_email(signer.sign(build_mail(report(), TO, 0, NOW), SIGNED_FIELDS), offline=True)
    assert found["report_type"] == "smtp_tls"
    assert found["report"]["policies"][0]["successful_session_count"] == 5326


@pytest.mark.rfc("8460-3-ae", "8460-3-af", "8460-3-ag", "8460-5.3-g")
def test_the_signature_verifies_and_covers_what_it_must(signer: DkimSigner) -> None:
    message = signer.sign(build_mail(report(), TO, 0, NOW), SIGNED_FIELDS)
    tags = dict(
        tag.strip().split("=", 1) for tag in re.sub(r"\s", "", parsed(message)["DKIM-Signature"]).split(";") if tag
    )
    assert (tags["a"], tags["d"], tags["s"]) == ("rsa-sha256", "company-x.example", "tlsrpt")
    assert "l" not in tags
    assert {"tls-report-domain", "tls-report-submitter", "from"} <= set(tags["h"].lower().split(":"))
    # dkimpy takes `s=email:tlsrpt` for one service of that name (RFC 6376 §3.6.1: a list), so it gets each by itself.
    for services in ("email", "tlsrpt"):
        record = signer.record.replace("email:tlsrpt", services).encode()
        asked: list[bytes] = []

        def txt(name: bytes, record: bytes = record, asked: list[bytes] = asked, **_: object) -> bytes:
            asked.append(name)
            return record

        assert dkim.verify(message, dnsfunc=txt, tlsrpt=services == "tlsrpt")
        assert asked == [b"tlsrpt._domainkey.company-x.example."]
        changed = message.replace(b"TLS-Report-Domain: company-y", b"TLS-Report-Domain: company-z")
        assert changed != message
        assert not dkim.verify(changed, dnsfunc=txt, tlsrpt=services == "tlsrpt")


@pytest.mark.rfc("8460-3-ah", "8460-3-ai")
def test_the_key_record_is_for_mail_and_for_reports(signer: DkimSigner) -> None:
    assert signer.record_name == "tlsrpt._domainkey.company-x.example"
    assert re.fullmatch(r"v=DKIM1; k=rsa; s=email:tlsrpt; p=[A-Za-z0-9+/]+=*", signer.record)


def test_the_key_is_not_shown(signer: DkimSigner) -> None:
    assert "PRIVATE" not in repr(signer)


def test_keys_that_cannot_sign(tmp_path: Path) -> None:
    cases = {
        "cannot be read": tmp_path / "none.pem",
        "no private key": tmp_path / "text.pem",
        "without a passphrase": write_key(tmp_path / "p.pem", rsa.generate_private_key(65537, 1024), b"secret"),
        "not an RSA key": write_key(tmp_path / "ec.pem", ec.generate_private_key(ec.SECP256R1())),
    }
    (tmp_path / "text.pem").write_text("hello")
    for words, path in cases.items():
        with pytest.raises(KeyUnusableError, match=words):
            DkimSigner.load(domain="a.test", selector="s", key_file=path)

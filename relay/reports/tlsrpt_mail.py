"""A TLS report as mail (RFC 8460 §5.3): two parts, the fields that it must have, signed by whoever calls. **Pure.**"""

from binascii import b2a_base64
from datetime import datetime

from policy.tlsrpt import MailEndpoint
from relay.reports.fields import CRLF, date, fold
from relay.reports.mime import Part, multipart, text_part
from relay.reports.tlsrpt import TlsReport, compressed

SIGNED_FIELDS = (
    "From",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "MIME-Version",
    "Content-Type",
    "TLS-Report-Domain",
    "TLS-Report-Submitter",
    "TLS-Required",
    "Auto-Submitted",
)
"""What the DKIM signature covers: the two fields of RFC 8460 §5.3, and all that a reader sees or acts on."""
_BASE64_OCTETS = 57


def message_id(report: TlsReport, number: int) -> str:
    """The Message-ID of the report's mail to its endpoint of that number; the same over all retries."""
    return f"<{report.unique_id}.{number}@{report.reporter.submitter}>"


def build_mail(report: TlsReport, endpoint: MailEndpoint, number: int, now: datetime) -> bytes:
    """Return the whole message, ASCII with CRLF throughout, as yet without its signature."""
    name, submitter = report.report_id, report.reporter.submitter
    fields = [
        f"Date: {date(now)}",
        f"From: <{report.reporter.contact}>",
        f"To: <{endpoint.address}>",
        fold("Subject", f"Report Domain: {report.domain} Submitter: {submitter} Report-ID: <{name}>"),
        fold("Message-ID", message_id(report, number)),
        f"TLS-Report-Domain: {report.domain}",
        f"TLS-Report-Submitter: {submitter}",
        # RFC 8689 §5: hops behind ours shall deliver it too, whatever is wrong with the TLS that it tells of.
        "TLS-Required: No",
        "Auto-Submitted: auto-generated",
    ]
    parts = [text_part("text/plain", _text(report)), _attachment(report)]
    return multipart(fields, '"tlsrpt"', parts, report.unique_id + str(number))


def _text(report: TlsReport) -> str:
    successful = sum(counts.successful for counts in report.policies)
    failed = sum(counts.failed for counts in report.policies)
    lines = [
        f"This is an aggregate TLS report (RFC 8460) about mail sent to {report.domain}",
        f"on {report.day.isoformat()} (UTC) from {report.reporter.submitter}.",
        "",
        f"Sessions that kept to the policy: {successful}",
        f"Sessions that failed:             {failed}",
        "",
        "The attached file has the details. Domains publish where such reports go",
        f"in the DNS, as a TXT record at _smtp._tls.{report.domain}.",
        "",
    ]
    return CRLF.join(lines)


def _attachment(report: TlsReport) -> Part:
    octets = compressed(report)
    pieces = (octets[at : at + _BASE64_OCTETS] for at in range(0, len(octets), _BASE64_OCTETS))
    body = CRLF.join(b2a_base64(piece, newline=False).decode("ascii") for piece in pieces)
    return Part("application/tlsrpt+gzip", body.encode("ascii"), "base64", report.filename)

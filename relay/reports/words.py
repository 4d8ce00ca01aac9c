"""What happened, in words that a user understands first: one entry for each status of design §6. **Pure.**

`OWN` holds the relay's own verdicts, `REMOTE` what a status means when a remote server gave it. Texts are in the
present tense and name no class, so that an NDR and a delay notice share them; "{domain}" is the recipients' domain.
"""

from dataclasses import dataclass
from enum import Enum

from relay.status import Status


class Fixer(Enum):
    """Who can mend it; the value is the sentence in the notice."""

    SENDER = "you, most likely by correcting the address or the message."
    RECIPIENT = "the recipient, or the mail administrator of {domain}. There is nothing to change at your end."
    RECIPIENT_ADMIN = "the mail administrator of {domain}. There is nothing to change at your end."
    OUR_ADMIN = "your own mail administrator ({postmaster})."
    EITHER_ADMIN = "the mail administrator of {domain}, or your own ({postmaster}), whoever of them finds the cause."


@dataclass(frozen=True, slots=True)
class Words:
    """An explanation for the user, what the user can do, who can mend it, and a note for administrators."""

    happened: str
    advice: str
    fixer: Fixer | None
    admin: str


_ASK_ADMIN = (
    "Contact the recipient by some other means (by phone, for example) and ask them to tell their email admin. "
    "Give them the error details shown below. Send your message again once it is fixed."
)
_CHECK_ADDRESS = "Check the address for typing mistakes, and send the message again to the right one."
_TELL_OURS = "Forward this message to your own mail administrator."
_TRY_LATER = (
    "Send the message again later. If that fails too, contact the recipient by some other means (by phone, for "
    "example) and ask them to tell their email admin. Give them the error details shown below."
)

OWN: dict[tuple[int, int], Words] = {
    (4, 8): Words(
        "{domain} publishes a security policy (MTA-STS) that names the servers which may receive its mail. The "
        "servers that its domain entry (the MX record) points to are not among them. Nobody can tell from outside "
        "whether that is an oversight or an attempt to intercept mail, so your message was not handed over.",
        _ASK_ADMIN,
        Fixer.RECIPIENT_ADMIN,
        "No MX host that can be reached is named by an mx line of the domain's MTA-STS policy (RFC 8461 section "
        "4.1). Most often mail was moved to another provider and the policy was not. MX records, policy file and "
        "the id in the TXT record have to be changed together.",
    ),
    (7, 5): Words(
        "The mail server of {domain} could not prove that it is the right one: its certificate is not valid. By its "
        "security policy (MTA-STS) {domain} asks that no mail be handed over then, because somebody else might be "
        "reading it. So your message was not handed over.",
        _ASK_ADMIN,
        Fixer.RECIPIENT_ADMIN,
        "The certificate has to chain to a public CA, be within its dates and carry the MX host's own name as a "
        "DNS name in its subjectAltName (RFC 8461 section 4.2). A name in the common name alone does not count.",
    ),
    (7, 321): Words(
        "The mail server of {domain} offers no working encryption, although the domain's own security policy "
        "(MTA-STS or DANE) demands it. Your message would have travelled readable for others, so it was not handed "
        "over.",
        _ASK_ADMIN,
        Fixer.RECIPIENT_ADMIN,
        "The MX host does not offer STARTTLS, refuses it, or the TLS handshake fails (RFC 8461 section 5, RFC 7672 "
        "section 2.2). If the server does offer it, look for a firewall in between that removes STARTTLS from the "
        "EHLO reply.",
    ),
    (7, 320): Words(
        "Mail to {domain} may only be handed to servers that prove who they are, as your own organisation has "
        "decided. No such server could be reached, so your message was not handed over.",
        _TELL_OURS,
        Fixer.EITHER_ADMIN,
        "A route of this relay demands more than the domain itself does: a certificate that verifies, an MTA-STS "
        "policy (mta_sts = mandatory), or TLSA records that DNSSEC secures (dane = mandatory, RFC 7672 section 6). "
        "The diagnostic says which. Either the other side has changed, or what the route says is out of date.",
    ),
    (4, 317): Words(
        "Mail to {domain} may only be handed over encrypted, as your own organisation has decided. The mail server "
        "offers no working encryption, so your message was not handed over.",
        _TELL_OURS,
        Fixer.EITHER_ADMIN,
        "A route of this relay demands TLS. The next hop does not offer STARTTLS or refuses it, or the TLS handshake "
        "with it fails.",
    ),
    (7, 8): Words(
        "The mail server that takes mail for {domain} does not let your organisation's mail system in.",
        _TELL_OURS,
        Fixer.OUR_ADMIN,
        "The next hop of a route refuses its user and password, or offers no way to give them (RFC 4954): AUTH PLAIN "
        "or LOGIN is needed. Compare the route's user and password with what the other side expects.",
    ),
    (7, 30): Words(
        "Your message was sent with the demand that every server on its way keep it encrypted and prove who it is "
        "(REQUIRETLS). The mail server of {domain} does not come up to that, so your message was not handed over.",
        "If the message need not be protected that much, send it again without that demand. Otherwise contact the "
        "recipient by some other means (by phone, for example) and agree on another way.",
        Fixer.RECIPIENT_ADMIN,
        "An MX host has to be named by a DNSSEC-signed MX record or by an MTA-STS policy in mode enforce, its "
        "certificate has to verify (web PKI or DANE), and its reply to the EHLO within TLS has to offer REQUIRETLS "
        "(RFC 8689 section 4.2.1). Few mail servers offer it yet.",
    ),
    (7, 10): Words(
        "Your message was sent with the demand that every server on its way keep it encrypted (REQUIRETLS). The mail "
        "server of {domain} offers no working encryption, so your message was not handed over.",
        _ASK_ADMIN,
        Fixer.RECIPIENT_ADMIN,
        "The MX host does not offer STARTTLS, refuses it, or the TLS handshake fails; the message demands TLS (RFC "
        "8689 section 4.2.1).",
    ),
    (7, 322): Words(
        "The certificate of the mail server of {domain} has expired. By its security records (DANE) {domain} asks that "
        "no mail be handed over then, because somebody else might be reading it. So your message was not handed over.",
        _ASK_ADMIN,
        Fixer.RECIPIENT_ADMIN,
        "A TLSA record with usage 2 (DANE-TA) stands for the host's CA, and the certificate below it is out of date "
        "(RFC 7672 section 3.1.2). Renew it; the record can stay.",
    ),
    (7, 323): Words(
        "The mail server of {domain} could not prove that it is the right one: its certificate is not the one that "
        "the domain's security records (DANE) announce. Nobody can tell from outside whether that is an oversight or "
        "an attempt to intercept mail, so your message was not handed over.",
        _ASK_ADMIN,
        Fixer.RECIPIENT_ADMIN,
        "No TLSA record of the MX host stands for the certificate that it shows, or none can be used (RFC 7672 section "
        "2.2). Most often a certificate was renewed with a new key and the record was not. Publish the record of the "
        "new certificate beside the old one, wait for the TTL to pass, and only then change the certificate.",
    ),
    (7, 324): Words(
        "The signed domain entries (DNSSEC) of {domain} or of its mail server are not valid. Nobody can tell from "
        "outside whether that is an oversight or an attempt to intercept mail, so your message was not handed over.",
        _ASK_ADMIN,
        Fixer.RECIPIENT_ADMIN,
        "The answer about the MX host's TLSA records fails DNSSEC validation (RFC 7672 section 2.1.2): expired "
        "signatures, or a DS record that no key of the zone matches. A tool such as dnsviz.net shows where.",
    ),
    (7, 325): Words(
        "The certificate of the mail server of {domain} is made out to another name. By its security records (DANE) "
        "{domain} asks that no mail be handed over then, so your message was not handed over.",
        _ASK_ADMIN,
        Fixer.RECIPIENT_ADMIN,
        "A TLSA record with usage 2 (DANE-TA) stands for the host's CA, and the certificate below it names neither the "
        "MX host nor the domain (RFC 7672 section 3.2.2). It needs the MX host's name as a DNS name in its "
        "subjectAltName.",
    ),
    (4, 312): Words(
        "The name servers (DNS) of {domain} give no usable answer, so its mail servers cannot be found.",
        _ASK_ADMIN,
        Fixer.EITHER_ADMIN,
        "The question was asked and not answered (time-out, SERVFAIL, refused, or a failed DNSSEC validation); "
        "that is not the same as a domain that does not exist. Look up MX, A, AAAA and _mta-sts TXT from outside.",
    ),
    (4, 310): Words(
        "The domain {domain} does not exist. Most likely the part of the address after the @ has a typing mistake.",
        _CHECK_ADDRESS,
        Fixer.SENDER,
        "DNS answered NXDOMAIN. If the address is right, the domain's registration or delegation has lapsed.",
    ),
    (1, 10): Words(
        "{domain} has declared that it receives no mail at all.",
        _CHECK_ADDRESS,
        Fixer.SENDER,
        "The domain publishes a null MX record, \"MX 0 .\" (RFC 7505).",
    ),
    (4, 4): Words(
        "The mail servers of {domain} have no address that mail can be sent to.",
        "Check the part of the address after the @ for typing mistakes. If it is right, contact the recipient by "
        "some other means (by phone, for example) and ask them to tell their email admin.",
        Fixer.RECIPIENT_ADMIN,
        "The MX hosts have neither A nor AAAA records, or only private, loopback or otherwise non-public addresses. "
        "Where such an address is meant, delivery.allow_private_addresses permits it.",
    ),
    (4, 315): Words(
        "The mail server of {domain} does not answer.",
        _TRY_LATER,
        Fixer.RECIPIENT_ADMIN,
        "The connection, or a reply that was waited for, timed out. If other senders get through, look for a "
        "firewall or for a route that is missing between the two hosts named below.",
    ),
    (4, 316): Words(
        "The mail server of {domain} cannot be reached: it refuses the connection.",
        _TRY_LATER,
        Fixer.RECIPIENT_ADMIN,
        "Nothing listens on port 25 of the host named below, or a firewall refuses connections from this server.",
    ),
    (4, 318): Words(
        "The mail server of {domain} breaks off the connection before it takes the message.",
        _TRY_LATER,
        Fixer.RECIPIENT_ADMIN,
        "The host closed the connection in the middle of the dialogue; its own log should say why.",
    ),
    (4, 6): Words(
        "Your message went round in a circle between mail servers and was stopped.",
        _TELL_OURS,
        Fixer.EITHER_ADMIN,
        "The message has passed too many servers, or the domain's MX record points back to this server. Look at the "
        "Received fields below, and at the MX records and routes of the domain.",
    ),
    (6, 3): Words(
        "Your message holds characters in a form that the mail server of {domain} cannot take.",
        "Send the message again as plain text without accented letters, or ask your mail administrator for help.",
        Fixer.EITHER_ADMIN,
        "The content is 8-bit and the host does not offer 8BITMIME (RFC 6152). This relay changes no content; the "
        "sending system could encode it as quoted-printable or base64.",
    ),
    (6, 7): Words(
        "An address of your message has letters beyond the English alphabet, which the mail server of {domain} "
        "cannot handle.",
        "Ask the recipient for an address that has plain English letters only, or send from such an address.",
        Fixer.RECIPIENT_ADMIN,
        "A path of the envelope is not ASCII and the host does not offer SMTPUTF8 (RFC 6531).",
    ),
    (6, 9): Words(
        "The header of your message (a name, an address or the subject) has characters in a form that the mail "
        "server of {domain} cannot handle.",
        "Send the message again without addresses that have letters beyond the English alphabet.",
        Fixer.EITHER_ADMIN,
        "The header section is not ASCII and the host does not offer SMTPUTF8 (RFC 6531).",
    ),
    (3, 4): Words(
        "Your message is larger than the mail server of {domain} accepts.",
        "Make the message smaller, for example by sending a link instead of attachments.",
        Fixer.SENDER,
        "The host announced a lower SIZE (RFC 1870) than the message has.",
    ),
    (5, 0): Words(
        "The mail server of {domain} gives answers that do not follow the rules of mail exchange.",
        _TRY_LATER,
        Fixer.RECIPIENT_ADMIN,
        "The host broke the SMTP protocol (RFC 5321); what it did is named below. A device between the two "
        "servers that rewrites SMTP is a common cause.",
    ),
    (3, 0): Words(
        "Your own mail system had a fault while it was sending the message.",
        _TELL_OURS,
        Fixer.OUR_ADMIN,
        "An internal error of the relay; its log has the details under the queue id below.",
    ),
    (3, 2): Words(
        "The administrator removed your message from the queue. It was not delivered.",
        "Ask your mail administrator for the reason before you send it again.",
        Fixer.OUR_ADMIN,
        "Removed by an operator (mta-sts-relay queue drop). The relay's log names the time.",
    ),
    (4, 300): Words(
        "The mail server of {domain} has kept asking to try again later, until the time for trying was over.",
        _ASK_ADMIN,
        Fixer.RECIPIENT_ADMIN,
        "Every attempt was answered with a temporary error; the last answer of the remote server stands below.",
    ),
}  # fmt: skip

REMOTE: dict[tuple[int, int], Words] = {
    (1, 1): Words(
        "The address does not exist at {domain}.", _CHECK_ADDRESS, Fixer.SENDER,
        "The remote server does not know the mailbox. If the address is right, its directory is not up to date.",
    ),
    (1, 2): Words(
        "The remote mail server does not know the domain {domain}.", _CHECK_ADDRESS, Fixer.SENDER,
        "The remote server does not consider itself responsible for the domain; check the MX records.",
    ),
    (1, 3): Words(
        "The mail server of {domain} does not accept the form of the address.", _CHECK_ADDRESS, Fixer.SENDER,
        "The remote server calls the syntax of the address wrong.",
    ),
    (1, 6): Words(
        "The recipient has moved and left no new address.", _CHECK_ADDRESS, Fixer.SENDER,
        "The remote server says that the mailbox has moved.",
    ),
    (1, 10): Words(
        "{domain} has declared that it receives no mail for this address.", _CHECK_ADDRESS, Fixer.SENDER,
        "The remote server answers with the status of a null MX or of an unknown recipient.",
    ),
    (2, 1): Words(
        "The recipient's mailbox is switched off.",
        "Contact the recipient by some other means, for example by phone.", Fixer.RECIPIENT,
        "The remote server says that the mailbox is disabled or takes no messages.",
    ),
    (2, 2): Words(
        "The recipient's mailbox is full.",
        "Tell the recipient by some other means, for example by phone, and send the message again later.",
        Fixer.RECIPIENT, "The remote server says that the mailbox is over its quota.",
    ),
    (2, 3): Words(
        "Your message is larger than the recipient's mailbox accepts.",
        "Make the message smaller, for example by sending a link instead of attachments.", Fixer.SENDER,
        "The message exceeds an administrative limit of the recipient.",
    ),
    (3, 1): Words(
        "The mail server of {domain} has no room left.", _TRY_LATER, Fixer.RECIPIENT_ADMIN,
        "The remote server says that its storage is full.",
    ),
    (3, 2): Words(
        "The mail server of {domain} does not take mail at the moment.", _TRY_LATER, Fixer.RECIPIENT_ADMIN,
        "The remote server says that it is not accepting messages.",
    ),
    (3, 4): Words(
        "Your message is larger than the mail server of {domain} accepts.",
        "Make the message smaller, for example by sending a link instead of attachments.", Fixer.SENDER,
        "The message exceeds the size limit of the remote server.",
    ),
    (5, 3): Words(
        "Your message has more recipients at {domain} than its mail server takes at once.",
        "Send the message again to fewer recipients at a time.", Fixer.SENDER,
        "The remote server limits the recipients of one message.",
    ),
    (7, 1): Words(
        "The mail server of {domain} has refused your message. It may take it for unwanted mail, or accept mail for "
        "this address from certain senders only.",
        "Read the answer of the remote server below; it may say what to change. Otherwise contact the recipient by "
        "some other means, for example by phone.", Fixer.EITHER_ADMIN,
        "The remote server refuses the message by its own policy: sender not allowed, content or reputation.",
    ),
}  # fmt: skip

_SENDER_AUTHENTICATION = Words(
    "The mail server of {domain} could not confirm that the message really comes from your organisation.",
    _TELL_OURS,
    Fixer.OUR_ADMIN,
    "The remote server found a fault in the sender's SPF, DKIM, DMARC or reverse DNS (RFC 7372). Check that the "
    "public address of this relay is in the SPF record and that its name and address agree.",
)
REMOTE.update({(7, detail): _SENDER_AUTHENTICATION for detail in (20, 21, 22, 23, 24, 25, 26, 27)})

_REMOTE_SUBJECTS: dict[int, Words] = {
    1: Words(
        "The mail server of {domain} does not accept the address.", _CHECK_ADDRESS, Fixer.SENDER,
        "The remote server's status is about the address (RFC 3463 section 3.2).",
    ),
    2: Words(
        "The recipient's mailbox at {domain} does not take the message.",
        "Contact the recipient by some other means, for example by phone.", Fixer.RECIPIENT,
        "The remote server's status is about the mailbox (RFC 3463 section 3.3).",
    ),
    6: Words(
        "The mail server of {domain} does not accept the content of your message.",
        "Send the message again in a simpler form, for example without attachments.", Fixer.EITHER_ADMIN,
        "The remote server's status is about the content (RFC 3463 section 3.7).",
    ),
    7: Words(
        "The mail server of {domain} refuses your message for reasons of security or policy.",
        "Read the answer of the remote server below; it may say what to change. Otherwise forward this message to "
        "your own mail administrator.", Fixer.EITHER_ADMIN,
        "The remote server's status is about security or policy (RFC 3463 section 3.8).",
    ),
}  # fmt: skip

_REMOTE_OTHER = Words(
    "The mail server of {domain} does not take the message.",
    "Read the answer of the remote server below; it may say what to change. Otherwise contact the recipient by some "
    "other means, for example by phone.",
    Fixer.EITHER_ADMIN,
    "The remote server gave no status, or one without a fixed meaning; its text stands below.",
)

_OWN_OTHER = Words(
    "Your message could not be handed to the mail server of {domain}.", _ASK_ADMIN, Fixer.EITHER_ADMIN,
    "The details stand below.",
)  # fmt: skip

RELAYED = Words(
    "The message was handed to the mail server of {domain}, which took it but does not send delivery notices. You "
    "will not get another confirmation; only if delivery fails will you hear of it.",
    "You do not have to do anything.",
    None,
    "The next hop accepted the message and does not offer DSN (RFC 3461), so that success is reported from here.",
)


_REMOTE_LATER = Words(
    "The mail server of {domain} has asked to try again later.", _TRY_LATER, Fixer.RECIPIENT_ADMIN,
    "The remote server answered with a temporary error; first contacts are often put off so (greylisting).",
)  # fmt: skip

_PASSING = frozenset({(2, 1), (2, 2), (3, 1), (3, 2)})


def own_words(status: Status) -> Words:
    """The words for a verdict of the relay itself."""
    return OWN.get((status.subject, status.detail), _OWN_OTHER)


def remote_words(status: Status) -> Words:
    """The words for a status that a remote server gave; an unknown detail counts as its subject (RFC 3463 §2).

    A temporary one, whatever its detail, is no more than a request to wait, unless it says what is full or shut.
    """
    key = (status.subject, status.detail)
    if not status.permanent:
        return REMOTE[key] if key in _PASSING else _REMOTE_LATER
    return REMOTE.get(key) or _REMOTE_SUBJECTS.get(status.subject, _REMOTE_OTHER)

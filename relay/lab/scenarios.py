"""The table of the demo: one domain per fault."""

from dataclasses import replace

from relay.lab.ca import CertificateKind
from relay.lab.domain_steps import (
    ENFORCE,
    DomainStep,
    address_only,
    at_domain,
    null_mx,
    oversized,
    policy_host_dies,
    policy_is_corrected,
    record_vanishes,
    redirect,
    signed,
    tlsa_bogus,
    tlsa_of_another,
    tlsa_records,
    two_records,
)
from relay.lab.internet import Lab
from relay.lab.mx_behaviour import STANDARD_KEYWORDS, WITH_REQUIRETLS, Handshake, MxBehaviour, Phase, greylist
from relay.lab.policy_host import PolicySite
from relay.lab.scenario import Scenario, Security, Verdict, deferred, delivered, failed


def _case(
    name: str,
    title: str,
    must: str,
    expected: Verdict,
    *mx: MxBehaviour,
    policy: PolicySite | None = None,
    then: DomainStep | None = None,
    first: Verdict | None = None,
    between: DomainStep | None = None,
    second_message: bool = False,
    taken_by: str = "",
    report_only: bool = False,
    requiretls: bool = False,
    route: tuple[str, ...] = (),
) -> Scenario:
    """Make a scenario of hosts mx1, mx2, ... in order of preference; names in `policy` are relative to the domain."""
    domain = f"{name}.test"

    async def prepare(lab: Lab) -> None:
        hosts = [(f"mx{number}.{domain}", 10 * number, behaviour) for number, behaviour in enumerate(mx, 1)]
        await lab.domain(domain, mx=hosts, policy=at_domain(domain, policy) if policy is not None else None)
        if then is not None:
            await then(lab, domain)

    async def between_here(lab: Lab) -> None:
        assert between is not None
        await between(lab, domain)

    return Scenario(
        domain=domain,
        title=title,
        must=must,
        expected=expected,
        prepare=prepare,
        first=first,
        between=between_here if between is not None else None,
        second_message=second_message,
        taken_by=f"{taken_by}.{domain}" if taken_by else "",
        report_only=report_only,
        requiretls=requiretls,
        route=route,
    )


_GOOD = MxBehaviour()
_REQUIRETLS = MxBehaviour(keywords_in_tls=WITH_REQUIRETLS)
_SELF_SIGNED = MxBehaviour(certificate=CertificateKind.SELF_SIGNED)
_STS, _OPPORTUNISTIC, _PLAINTEXT = (
    delivered(Security.STS),
    delivered(Security.OPPORTUNISTIC),
    delivered(Security.PLAINTEXT),
)
_ENFORCED = "deferred, nothing is sent"
_NO_POLICY = "delivered as without policy"


def _bad_certificate(name: str, title: str, kind: CertificateKind) -> Scenario:
    return _case(name, title, _ENFORCED, deferred("4.7.5"), MxBehaviour(certificate=kind), policy=ENFORCE)


def _starttls_refused(name: str, reply: str) -> Scenario:
    behaviour = MxBehaviour(replies={Phase.STARTTLS: reply})
    title = f"enforce; STARTTLS answered {reply[:3]}"
    return _case(name, title, _ENFORCED, deferred("4.7.321"), behaviour, policy=ENFORCE)


def _no_usable_policy(name: str, title: str, site: PolicySite = ENFORCE, then: DomainStep | None = None) -> Scenario:
    """The MX host's certificate is bad as well: a relay that makes a policy of it after all delivers nothing."""
    return _case(name, title, _NO_POLICY, _OPPORTUNISTIC, _SELF_SIGNED, policy=site, then=then)


def _exception(until: str) -> tuple[str, ...]:
    return 'mta_sts = "off"', 'reason = "they know"', f'until = "{until}"'


SCENARIOS: tuple[Scenario, ...] = (
    _case("no-policy", "nothing; no policy", "delivered", _OPPORTUNISTIC, _GOOD),
    _case(
        "no-policy-no-tls",
        "no policy, no STARTTLS",
        "delivered in plain text",
        _PLAINTEXT,
        MxBehaviour(offers_starttls=False),
    ),
    _case(
        "small-hello",
        "no policy; chokes on our ClientHello",
        "delivered, after a smaller one",
        _OPPORTUNISTIC,
        MxBehaviour(handshake=Handshake.SMALL),
    ),
    _case("enforce-ok", "nothing; enforce", "delivered, verified", _STS, _GOOD, policy=ENFORCE),
    _case(
        "wildcard",
        "nothing; enforce with a wildcard mx",
        "delivered, verified",
        _STS,
        _GOOD,
        policy=PolicySite(mx=["*"]),
    ),
    _bad_certificate("expired", "enforce; certificate expired", CertificateKind.EXPIRED),
    _bad_certificate("wrong-name", "enforce; certificate for another name", CertificateKind.WRONG_NAME),
    _bad_certificate("self-signed", "enforce; certificate self-signed", CertificateKind.SELF_SIGNED),
    _bad_certificate("unknown-ca", "enforce; certificate of an unknown CA", CertificateKind.UNKNOWN_CA),
    _bad_certificate("cn-only", "enforce; name only in the subject", CertificateKind.CN_ONLY),
    _case(
        "no-starttls",
        "enforce; no STARTTLS",
        _ENFORCED,
        deferred("4.7.321"),
        MxBehaviour(offers_starttls=False),
        policy=ENFORCE,
    ),
    _starttls_refused("starttls-454", "454 4.7.0 TLS not available"),
    _starttls_refused("starttls-500", "500 5.5.1 What?"),
    _case(
        "no-handshake",
        "enforce; STARTTLS, then no handshake",
        _ENFORCED,
        deferred("4.7.321"),
        MxBehaviour(handshake=Handshake.ALERT),
        policy=ENFORCE,
    ),
    _case(
        "not-in-policy",
        "enforce; MX not in policy",
        "deferred, not contacted",
        deferred("4.4.8"),
        _GOOD,
        policy=PolicySite(mx=["elsewhere"]),
    ),
    _case(
        "second-mx-good",
        "enforce; first MX bad, second good",
        "delivered to the second",
        _STS,
        MxBehaviour(certificate=CertificateKind.EXPIRED),
        _GOOD,
        policy=ENFORCE,
        taken_by="mx2",
    ),
    _case(
        "testing",
        "testing; certificate self-signed",
        "delivered all the same",
        _OPPORTUNISTIC,
        _SELF_SIGNED,
        policy=replace(ENFORCE, mode="testing"),
    ),
    _no_usable_policy("mode-none", "mode none; certificate self-signed", PolicySite(mode="none", mx=())),
    _no_usable_policy("redirect", "policy host redirects", then=redirect),
    _no_usable_policy("not-found", "policy host answers 404", replace(ENFORCE, status=404)),
    _no_usable_policy("oversized", "policy larger than 64 KiB", then=oversized),
    _no_usable_policy("html", "policy served as text/html", replace(ENFORCE, content_type="text/html")),
    _no_usable_policy(
        "bad-policy-host",
        "policy host's certificate self-signed",
        replace(ENFORCE, certificate=CertificateKind.SELF_SIGNED),
    ),
    _no_usable_policy("two-records", "two TXT records", then=two_records),
    _case(
        "record-vanishes",
        "enforce, cached; then TXT gone and certificate self-signed",
        "second message deferred",
        deferred("4.7.5"),
        _GOOD,
        policy=ENFORCE,
        first=_STS,
        between=record_vanishes,
        second_message=True,
    ),
    _case(
        "policy-host-dies",
        "enforce, cached; then policy host down and certificate self-signed",
        "second message deferred",
        deferred("4.7.5"),
        _GOOD,
        policy=ENFORCE,
        first=_STS,
        between=policy_host_dies,
        second_message=True,
    ),
    _case(
        "policy-corrected",
        "enforce with the wrong mx; then corrected, with a new id",
        "deferred, fetched again, delivered",
        _STS,
        _GOOD,
        policy=PolicySite(mx=["elsewhere"]),
        first=deferred("4.4.8"),
        between=policy_is_corrected,
    ),
    _case(
        "dane",
        "TLSA record; certificate self-signed",
        "delivered, authenticated",
        delivered(Security.DANE),
        _SELF_SIGNED,
        then=tlsa_records,
    ),
    _case(
        "dane-and-sts",
        "nothing; TLSA record and enforce",
        "delivered, verified by both",
        delivered(Security.DANE_STS),
        _GOOD,
        policy=ENFORCE,
        then=tlsa_records,
    ),
    _case(
        "dane-mismatch",
        "TLSA record of another certificate; enforce, kept to",
        _ENFORCED,
        deferred("4.7.323"),
        _GOOD,
        policy=ENFORCE,
        then=tlsa_of_another,
    ),
    _case(
        "dane-no-starttls",
        "TLSA record; no STARTTLS",
        _ENFORCED,
        deferred("4.7.321"),
        MxBehaviour(offers_starttls=False),
        then=tlsa_records,
    ),
    _case(
        "dane-bogus",
        "TLSA record does not validate",
        "deferred, not contacted",
        deferred("4.7.324"),
        _GOOD,
        then=tlsa_bogus,
    ),
    _case(
        "dane-second-mx",
        "TLSA record of the first MX does not validate, second good",
        "delivered to the second",
        delivered(Security.DANE),
        _GOOD,
        _GOOD,
        then=tlsa_bogus,
        taken_by="mx2",
    ),
    _case(
        "requiretls",
        "REQUIRETLS, enforce; first MX does not offer it, second good",
        "delivered to the second, verified",
        _STS,
        _GOOD,
        _REQUIRETLS,
        policy=ENFORCE,
        taken_by="mx2",
        requiretls=True,
    ),
    _case(
        "requiretls-dnssec",
        "REQUIRETLS; no policy, MX record signed",
        "delivered, verified",
        delivered(Security.REQUIRETLS),
        _REQUIRETLS,
        then=signed,
        requiretls=True,
    ),
    _case(
        "requiretls-refused",
        "REQUIRETLS, enforce; offered before TLS only",
        "NDR at once, nothing is sent",
        failed("5.7.30"),
        MxBehaviour(keywords=WITH_REQUIRETLS, keywords_in_tls=STANDARD_KEYWORDS),
        policy=ENFORCE,
        requiretls=True,
    ),
    _case(
        "requiretls-unproven",
        "REQUIRETLS; neither policy nor signed MX record",
        "NDR at once, not contacted",
        failed("5.7.30"),
        _REQUIRETLS,
        requiretls=True,
    ),
    _case(
        "route-mandatory",
        "route: policy mandatory; there is none",
        "deferred, not contacted",
        deferred("4.7.320"),
        _GOOD,
        route=('mta_sts = "mandatory"',),
    ),
    _case(
        "route-encrypt",
        "route: TLS demanded; no STARTTLS",
        _ENFORCED,
        deferred("4.4.317"),
        MxBehaviour(offers_starttls=False),
        route=('tls = "encrypt"',),
    ),
    _case(
        "route-verify",
        "route: verified TLS demanded; first MX self-signed, second good",
        "delivered to the second, verified",
        delivered(Security.ROUTE),
        _SELF_SIGNED,
        _GOOD,
        taken_by="mx2",
        route=('tls = "verify"',),
    ),
    _case(
        "exception",
        "enforce, certificate expired; exception until 2099",
        "delivered, encrypted",
        _OPPORTUNISTIC,
        MxBehaviour(certificate=CertificateKind.EXPIRED),
        policy=ENFORCE,
        route=_exception("2099-12-31"),
    ),
    _case(
        "exception-over",
        "enforce, certificate expired; exception until 2020",
        _ENFORCED,
        deferred("4.7.5"),
        MxBehaviour(certificate=CertificateKind.EXPIRED),
        policy=ENFORCE,
        route=_exception("2020-12-31"),
    ),
    _case("null-mx", "null MX", "NDR at once", failed("5.1.10"), then=null_mx),
    _case("no-mx", "no MX, only an address", "delivered", _OPPORTUNISTIC, then=address_only),
    _case(
        "no-such-user",
        "550 to RCPT",
        "NDR at once",
        failed("5.1.1"),
        MxBehaviour(replies={Phase.RCPT: "550 5.1.1 No such user here"}),
        policy=ENFORCE,
    ),
    _case(
        "greylisting",
        "451 to the first RCPT",
        "delivered on retry",
        _OPPORTUNISTIC,
        MxBehaviour(replies={Phase.RCPT: greylist()}),
    ),
    _case(
        "report-only",
        "report-only; enforce, certificate expired",
        "delivered all the same",
        _OPPORTUNISTIC,
        MxBehaviour(certificate=CertificateKind.EXPIRED),
        policy=ENFORCE,
        report_only=True,
    ),
    _case(
        "report-only-dane",
        "report-only; TLSA record of another certificate",
        _ENFORCED,
        deferred("4.7.323"),
        _GOOD,
        then=tlsa_of_another,
        report_only=True,
    ),
)

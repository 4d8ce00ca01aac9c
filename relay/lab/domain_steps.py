"""What is done to a domain of the demo's table beyond its hosts and its policy, at first or while the relay runs."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from relay.lab.ca import CertificateKind, tlsa_record
from relay.lab.dns import DnsFault
from relay.lab.internet import Lab
from relay.lab.mx_behaviour import MxBehaviour
from relay.lab.policy_host import WELL_KNOWN, PolicySite

DomainStep = Callable[[Lab, str], Awaitable[None]]

ENFORCE = PolicySite(mode="enforce", mx=("mx1", "mx2"))


def at_domain(domain: str, policy: PolicySite) -> PolicySite:
    return replace(policy, mx=tuple(f"{name}.{domain}" for name in policy.mx))


async def address_only(lab: Lab, domain: str) -> None:
    await lab.host(domain)


async def null_mx(lab: Lab, domain: str) -> None:
    lab.dns.null_mx(domain)


async def two_records(lab: Lab, domain: str) -> None:
    lab.domains[domain].announce("v=STSv1; id=1;", "v=STSv1; id=2;")


async def redirect(lab: Lab, domain: str) -> None:
    # Where it leads there is a policy that would refuse our MX: who follows it is found out.
    location = f"https://mta-sts.enforce-ok.test:{lab.policy_port}{WELL_KNOWN}"
    lab.domains[domain].publish(at_domain(domain, replace(ENFORCE, status=302, location=location)))


async def oversized(lab: Lab, domain: str) -> None:
    # A valid policy but for its size: who reads only the beginning of it is found out.
    policy = at_domain(domain, ENFORCE)
    padding = b"x-padding: %s\r\n" % (b"x" * 100) * 700
    lab.domains[domain].publish(replace(policy, body=policy.policy_text() + padding))


async def record_vanishes(lab: Lab, domain: str) -> None:
    lab.domains[domain].announce()
    await certificate_goes_bad(lab, domain)


async def policy_host_dies(lab: Lab, domain: str) -> None:
    lab.domains[domain].policy_host_down()
    lab.domains[domain].announce("v=STSv1; id=2;")  # so that the relay has a reason to ask the host
    await certificate_goes_bad(lab, domain)


async def certificate_goes_bad(lab: Lab, domain: str) -> None:
    host = lab.hosts[f"mx1.{domain}"]
    host.behaviour = MxBehaviour(certificate=CertificateKind.SELF_SIGNED)
    host.hang_up()  # a connection that was verified before would rightly be used again


async def policy_is_corrected(lab: Lab, domain: str) -> None:
    lab.domains[domain].publish(at_domain(domain, replace(ENFORCE, id="2")))


async def signed(lab: Lab, domain: str) -> None:
    lab.dns.sign(domain)


async def tlsa_records(lab: Lab, domain: str) -> None:
    """Sign the domain, and let each of its hosts have the TLSA record of its certificate."""
    lab.dns.sign(domain)
    for name, host in lab.hosts.items():
        if name.endswith(f".{domain}"):
            certificate = lab.ca.identity(host.behaviour.certificate, name).certificate
            lab.dns.tlsa(name, tlsa_record(3, 1, 1, certificate), port=lab.smtp_port)


async def tlsa_of_another(lab: Lab, domain: str) -> None:
    await tlsa_records(lab, domain)
    lab.dns.tlsa(f"mx1.{domain}", tlsa_record(3, 1, 1, lab.ca.root.certificate), port=lab.smtp_port)


async def tlsa_bogus(lab: Lab, domain: str) -> None:
    await tlsa_records(lab, domain)
    lab.dns.override(f"_{lab.smtp_port}._tcp.mx1.{domain}", "TLSA", DnsFault.BOGUS)

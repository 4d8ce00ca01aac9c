"""What cannot be in one [[route]], or makes it of no use."""

from collections.abc import Iterator, Mapping

from relay.config.models import RouteTable, Settings
from relay.config.problems import KeyPath, Problem
from relay.config.secrets import SecretError


def impossible_routes(settings: Settings) -> Iterator[Problem]:
    """Yield what is wrong with the routes, whatever machine they are for."""
    taken: dict[str, int] = {}
    for number, route in enumerate(settings.route):
        path: KeyPath = ("route", number)
        if not route.domains:
            yield Problem((*path, "domains"), 'are needed, such as ["partner.example", "*.partner.example"]')
        for pattern in route.domains:
            before = taken.get(pattern, taken.get("*"))
            if before is not None and before != number:
                yield Problem((*path, "domains"), f"{pattern} is never reached: route[{before + 1}] comes first")
            taken.setdefault(pattern, number)
        yield from _login(path, route)
        yield from _name(path, route)
        yield from _weakening(path, route)
        yield from _mandatory(path, route)


def unusable_routes(settings: Settings, environ: Mapping[str, str]) -> Iterator[Problem]:
    """Yield the passwords that cannot be had."""
    for number, route in enumerate(settings.route):
        try:
            if route.password is not None:
                route.password.read(environ)
        except SecretError as error:
            yield Problem(("route", number, "password"), str(error))


def _login(path: KeyPath, route: RouteTable) -> Iterator[Problem]:
    if route.user and route.password is None:
        yield Problem((*path, "password"), "is needed with user")
    if route.password is not None and not route.user:
        yield Problem((*path, "user"), "is needed with password")
    if not route.user:
        return
    if route.tls not in ("verify", "verify-name"):
        yield Problem((*path, "tls"), 'must be "verify" or "verify-name" with user: a password needs verified TLS')
    elif not route.next_hop:
        yield Problem((*path, "next_hop"), "is needed with user: a password is for a host that you name")
    elif route.tls == "verify" and any(hop.by_mx for hop in route.next_hop):
        yield Problem(
            (*path, "tls"), 'must be "verify-name" with user and mx://: the names of MX hosts are what the DNS says'
        )


def _name(path: KeyPath, route: RouteTable) -> Iterator[Problem]:
    if route.tls_name and route.tls != "verify-name":
        yield Problem((*path, "tls_name"), 'has a use with tls = "verify-name" only')
    if route.tls == "verify-name" and not route.tls_name:
        yield Problem((*path, "tls_name"), 'is needed with tls = "verify-name"')


def _weakening(path: KeyPath, route: RouteTable) -> Iterator[Problem]:
    weakened = [key for key in ("mta_sts", "dane") if getattr(route, key) == "off"]
    if weakened and not route.reason.strip():
        yield Problem((*path, weakened[0]), '"off" needs a reason')
    if route.until is not None and not weakened:
        yield Problem((*path, "until"), 'has no use without mta_sts or dane = "off": it is what ends then')


def _mandatory(path: KeyPath, route: RouteTable) -> Iterator[Problem]:
    addresses = [hop for hop in route.next_hop if not isinstance(hop.host, str)]
    for key in ("mta_sts", "dane"):
        if getattr(route, key) == "mandatory" and addresses:
            yield Problem((*path, key), f'"mandatory" cannot be met by {addresses[0]}: name the host')

"""Settings that are each well-formed but impossible together, or on this machine."""

import os
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

from policy.decide import Precedence
from relay.config.models import ListenerTable, Settings, TlsRptTable
from relay.config.problems import KeyPath, Problem
from relay.config.route_checks import impossible_routes, unusable_routes

MAX_WORKERS = 64


def impossible(settings: Settings) -> Iterator[Problem]:
    """Yield what this version, or any, cannot do. Looks at nothing but the settings."""
    yield from _workers(settings)
    if settings.store.url != "sqlite":
        text = (
            "this version supports sqlite only" if settings.store.url.startswith("postgresql:") else 'must be "sqlite"'
        )
        yield Problem(("store", "url"), text)
    if settings.tls.opportunistic_minimum_version > settings.tls.minimum_version:
        yield Problem(
            ("tls", "opportunistic_minimum_version"),
            "must not be above tls.minimum_version: mail without a policy would be held to more than mail with one",
        )
    if settings.dane.mode == "off" and settings.dane.precedence is not Precedence.BOTH:
        yield Problem(("dane", "precedence"), 'has no use with mode = "off"')
    if settings.queue.expire_refused_after > settings.queue.expire_after:
        yield Problem(("queue", "expire_refused_after"), "must not be longer than queue.expire_after")
    if (notice := settings.queue.delay_notice_after) is not None and notice >= settings.queue.expire_after:
        yield Problem(("queue", "delay_notice_after"), 'must be shorter than queue.expire_after, or "never"')
    yield from _tlsrpt(settings)
    yield from impossible_routes(settings)
    yield from _access(settings)
    yield from _addresses(settings)
    for number, listener in enumerate(settings.listener):
        yield from _listener(("listener", number), listener, settings)


def _workers(settings: Settings) -> Iterator[Problem]:
    workers, access, delivery = settings.relay.workers, settings.access, settings.delivery
    if workers > MAX_WORKERS:
        yield Problem(("relay", "workers"), f"must be at most {MAX_WORKERS}")
    for name, bound in (
        ("access.max_connections", access.max_connections),
        ("access.max_connections_per_client", access.max_connections_per_client),
        ("access.max_messages_per_minute_per_client", access.max_messages_per_minute_per_client or workers),
        ("delivery.max_connections", delivery.max_connections),
        ("delivery.max_connections_per_destination", delivery.max_connections_per_destination),
    ):
        if bound < workers:
            yield Problem(("relay", "workers"), f"must be at most {name}, as each needs one of them")


def _tlsrpt(settings: Settings) -> Iterator[Problem]:
    tlsrpt = settings.tlsrpt
    if tlsrpt.mode == "off":
        return
    for key in ("organization_name", "contact", "dkim_domain", "dkim_selector", "dkim_key_file"):
        if not getattr(tlsrpt, key):
            yield Problem(("tlsrpt", key), 'is needed with mode = "on"')
    submitter = tlsrpt.contact.rpartition("@")[2]
    if submitter and tlsrpt.dkim_domain not in ("", submitter):
        # RFC 8460 §3: the signature is the reporting domain's, which is that of the contact.
        yield Problem(("tlsrpt", "dkim_domain"), f"must be {submitter}, the domain of tlsrpt.contact")


def _access(settings: Settings) -> Iterator[Problem]:
    access = settings.access
    if not (access.networks or access.users_file or access.certificates):
        yield Problem(("access", "networks"), "nobody may send: give networks, users_file or certificates")
    if access.users_file and all(listener.tls == "none" for listener in settings.listener):
        yield Problem(("access", "users_file"), "needs a listener with TLS: passwords are taken under TLS only")
    if access.certificates and not any(listener.client_ca for listener in settings.listener):
        yield Problem(("access", "certificates"), "needs a listener with client_ca")


def _addresses(settings: Settings) -> Iterator[Problem]:
    taken = {settings.http.address: "http.address"} if settings.http.address.port else {}
    for number, listener in enumerate(settings.listener):
        if listener.address in taken:
            yield Problem(("listener", number, "address"), f"the same as {taken[listener.address]}")
        elif listener.address.port:
            taken[listener.address] = f"listener[{number + 1}].address"


def _listener(path: KeyPath, listener: ListenerTable, settings: Settings) -> Iterator[Problem]:
    if listener.tls == "none":
        for key in ("certificate", "key", "client_ca"):
            if getattr(listener, key):
                yield Problem((*path, key), 'has no use with tls = "none"')
    else:
        for key in ("certificate", "key"):
            if not getattr(listener, key):
                yield Problem((*path, key), f'is needed with tls = "{listener.tls}"')
    if listener.proxy_protocol and not settings.access.proxies:
        yield Problem((*path, "proxy_protocol"), "needs access.proxies: nobody else may say who the client is")
    if listener.proxy_protocol and listener.tls == "implicit":
        yield Problem((*path, "proxy_protocol"), 'does not go together with tls = "implicit"')


def laxities(settings: Settings) -> Iterator[Problem]:
    """Yield what may be wanted, but protects less than the relay could: to be said, so that nobody forgets it."""
    if (text := _LAX_MODES.get(settings.mta_sts.mode)) is not None:
        yield Problem(("mta_sts", "mode"), text)
    if settings.requiretls.tls_required_no == "honour":
        yield Problem(("requiretls", "tls_required_no"), _HONOURED)


_HONOURED = (
    '"honour" delivers what policies (MTA-STS) and TLSA records (DANE) forbid, if need be in plain text, wherever a '
    "sender writes the header field TLS-Required: No"
)
_LAX_MODES = {
    "report-only": (
        '"report-only" delivers what policies (MTA-STS) forbid, over any TLS or none; `mta-sts-relay report '
        "enforcement` shows what would be blocked; DANE is no part of this"
    ),
    "off": (
        '"off" looks no policy (MTA-STS) up: mail leaves over any TLS or none, to any host; with "report-only", '
        "`mta-sts-relay report enforcement` would show what would be blocked"
    ),
}


def unusable(settings: Settings) -> Iterator[Problem]:
    """Yield what cannot work on this machine: files that cannot be read, a state_dir that cannot be written."""
    yield from unusable_routes(settings, os.environ)
    if (reason := _not_writable(settings.relay.state_dir)) is not None:
        yield Problem(("relay", "state_dir"), reason)
    if (reason := _not_readable(settings.access.users_file)) is not None:
        yield Problem(("access", "users_file"), reason)
    if (reason := _not_loadable(settings.tls.ca_file, _load_ca(settings.tls.ca_file))) is not None:
        yield Problem(("tls", "ca_file"), reason)
    if settings.tlsrpt.mode == "on" and (reason := _not_a_key(settings.tlsrpt)) is not None:
        yield Problem(("tlsrpt", "dkim_key_file"), reason)
    for number, listener in enumerate(settings.listener):
        if listener.tls == "none" or not listener.certificate or not listener.key:
            continue
        path: KeyPath = ("listener", number)
        if (reason := _not_readable(listener.key)) is not None:
            yield Problem((*path, "key"), reason)
        elif (
            reason := _not_loadable(listener.certificate, _load_chain(listener.certificate, listener.key))
        ) is not None:
            yield Problem((*path, "certificate"), reason)
        if (reason := _not_loadable(listener.client_ca, _load_ca(listener.client_ca))) is not None:
            yield Problem((*path, "client_ca"), reason)


def _not_writable(directory: Path) -> str | None:
    """Whether files can be made there; the directory itself is made when the relay starts."""
    there = directory
    try:
        while not there.exists() and there != there.parent:
            there = there.parent
        if not there.is_dir():
            return f"{there} is not a directory"
    except PermissionError:
        return f"{there} cannot be reached: a directory above it is closed to us"
    return None if os.access(there, os.W_OK | os.X_OK, effective_ids=True) else f"{there} is not writable"


def _not_readable(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        file.open("rb").close()
    except OSError as error:
        return f"{file} cannot be read: {error.strerror}"
    return None


def _not_a_key(tlsrpt: TlsRptTable) -> str | None:
    from relay.dkim import DkimSigner, KeyUnusableError  # takes as long to import as all of the settings

    assert tlsrpt.dkim_key_file is not None, "looked at before"
    try:
        DkimSigner.load(domain=tlsrpt.dkim_domain, selector=tlsrpt.dkim_selector, key_file=tlsrpt.dkim_key_file)
    except KeyUnusableError as error:
        return f"{error}; to make one: openssl genrsa -out {tlsrpt.dkim_key_file} 2048"
    return None


def _load_ca(file: Path | None) -> Callable[[ssl.SSLContext], None]:
    return lambda context: context.load_verify_locations(file)


def _load_chain(certificate: Path, key: Path) -> Callable[[ssl.SSLContext], None]:
    # An encrypted key would make OpenSSL ask at the terminal; an empty password makes it fail instead.
    return lambda context: context.load_cert_chain(certificate, key, password="")


def _not_loadable(file: Path | None, load: Callable[[ssl.SSLContext], None]) -> str | None:
    if file is None:
        return None
    if (reason := _not_readable(file)) is not None:
        return reason
    try:
        load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    except (ssl.SSLError, OSError) as error:
        if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            return f"{file} does not belong to the key"
        return f"{file} cannot be used: {getattr(error, 'reason', None) or error.strerror}"
    return None

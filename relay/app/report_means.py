"""From the settings to what TLS reports are sent with (RFC 8460)."""

from relay.app import plain
from relay.app.outbound import Outbound
from relay.app.reporting import Means
from relay.config import Settings


def report_means(settings: Settings, outbound: Outbound) -> Means | None:
    """Return the means, or None where nothing is to be reported. Raises ValueError if the key cannot be used."""
    tlsrpt = settings.tlsrpt
    if outbound.poster is None:
        return None
    from relay.dkim import DkimSigner  # a tenth of a second that most relays have no use for

    assert tlsrpt.dkim_key_file is not None, "the settings were checked"
    key_file = tlsrpt.dkim_key_file
    return Means(
        reporter=plain.reporter(settings),
        signer=DkimSigner.load(domain=tlsrpt.dkim_domain, selector=tlsrpt.dkim_selector, key_file=key_file),
        resolver=outbound.resolver,
        poster=outbound.poster,
    )

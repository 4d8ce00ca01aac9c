"""From the settings to what TLS reports are sent with (RFC 8460)."""

from typing import TYPE_CHECKING

from relay.app import plain
from relay.app.outbound import Outbound
from relay.app.reporting import Means
from relay.config import Settings

if TYPE_CHECKING:
    from relay.dkim import DkimSigner


def report_means(settings: Settings, outbound: Outbound) -> Means | None:
    """Return the means, or None where nothing is to be reported. Raises ValueError if the key cannot be used."""
    if outbound.poster is None:
        return None
    return Means(
        reporter=plain.reporter(settings),
        signer=report_signer(settings),
        resolver=outbound.resolver,
        poster=outbound.poster,
    )


def report_signer(settings: Settings) -> "DkimSigner":
    """Load the key that the settings name. Raises relay.dkim.KeyUnusableError."""
    from relay.dkim import DkimSigner  # a tenth of a second that most relays have no use for

    tlsrpt = settings.tlsrpt
    assert tlsrpt.dkim_key_file is not None, "the settings were checked"
    return DkimSigner.load(domain=tlsrpt.dkim_domain, selector=tlsrpt.dkim_selector, key_file=tlsrpt.dkim_key_file)

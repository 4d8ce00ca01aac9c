"""From the settings to what TLS reports are sent with (RFC 8460)."""

from pathlib import Path
from typing import TYPE_CHECKING

from relay import report_events
from relay.app import plain
from relay.app.outbound import Outbound
from relay.app.reporting import Means
from relay.config import Settings
from relay.store.protocols import StoreError
from relay.store.sqlite.reports import SqliteReportStore

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
        no_reports_to=settings.tlsrpt.no_reports_to,
    )


async def open_report_store(path: Path) -> SqliteReportStore | None:
    """Open the file of reports; None, and a word in the log, where that cannot be: mail does not wait for it."""
    try:
        return await SqliteReportStore.open(path)
    except StoreError as error:
        report_events.reports_unusable(error)
        return None


def report_signer(settings: Settings) -> "DkimSigner":
    """Load the key that the settings name. Raises relay.dkim.KeyUnusableError."""
    from relay.dkim import DkimSigner  # a tenth of a second that most relays have no use for

    tlsrpt = settings.tlsrpt
    assert tlsrpt.dkim_key_file is not None, "the settings were checked"
    return DkimSigner.load(domain=tlsrpt.dkim_domain, selector=tlsrpt.dkim_selector, key_file=tlsrpt.dkim_key_file)

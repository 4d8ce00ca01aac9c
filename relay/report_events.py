"""What happens to TLS reports (RFC 8460), one function per event: the log reference of reporting."""

import logging
from datetime import date, datetime

from policy.tlsrpt import MailEndpoint
from relay.store.protocols import ReportDelivery

log = logging.getLogger(__name__)


def report_planned(day: date, domain: str, unique_id: str, endpoints: int, first_attempt_at: datetime) -> None:
    """A domain takes reports, and had sessions on that day."""
    log.info(
        "report.planned",
        extra={
            "day": day.isoformat(),
            "domain": domain,
            "report": unique_id,
            "endpoints": endpoints,
            "first_attempt_at": first_attempt_at.isoformat(),
        },
    )


def report_accepted(delivery: ReportDelivery) -> None:
    """An endpoint took the report by HTTPS, or its mail is in the queue: `recipient.*` tell on under its queue_id."""
    log.info("report.accepted", extra=_fields(delivery))


def report_deferred(delivery: ReportDelivery, reason: str, retry_at: datetime) -> None:
    log.info("report.deferred", extra=_fields(delivery) | {"reason": reason, "retry_at": retry_at.isoformat()})


def report_dropped(delivery: ReportDelivery, reason: str) -> None:
    """An endpoint does not get this report. Nobody is told but the log (RFC 8460 §5.5)."""
    log.warning("report.dropped", extra=_fields(delivery) | {"reason": reason})


def reports_unusable(error: Exception) -> None:
    """The file of reports cannot be opened. Mail goes on; nothing is reported until a start with a good one."""
    log.error("report.file_unusable", extra={"error": str(error)})


def reporting_failed(doing: str, error: Exception) -> None:
    """The store did not do what reporting asked of it; it is asked again."""
    log.error("report.failed", extra={"doing": doing, "error": str(error)})


def reporting_crashed(error: Exception) -> None:
    """A fault of the relay, with its traceback. Mail goes on, and so do the other reports."""
    log.error("report.crashed", exc_info=error)


def _fields(delivery: ReportDelivery) -> dict[str, object]:
    return {
        "day": delivery.day.isoformat(),
        "domain": delivery.domain,
        "report": delivery.unique_id,
        "endpoint": str(delivery.endpoint),
        "queue_id": delivery.queue_id if isinstance(delivery.endpoint, MailEndpoint) else None,
        "attempts": delivery.attempts,
    }

"""The first part of a notice: what people read, the user first, then the administrators. **Pure.**

The layout is Exchange's plain one, which users and help desks know.
"""

import textwrap
from collections.abc import Iterator
from datetime import timedelta

from relay.queue.notice import NoticeKind, NoticeRecipient
from relay.reports.facts import NoticeFacts
from relay.reports.fields import clean_address
from relay.reports.remedy import remedies
from relay.reports.technical import MAX_RECIPIENTS, diagnostics, stamp
from relay.reports.words import RELAYED, Words, own_words, remote_words

_RULE = "-" * 70
_WIDTH = 76

_HEADINGS = {
    NoticeKind.FAILED: "Delivery has failed to these recipients or groups:",
    NoticeKind.DROPPED: "Delivery has failed to these recipients or groups:",
    NoticeKind.DELAYED: "Delivery is delayed to these recipients or groups:",
    NoticeKind.RELAYED: (
        "Delivery to these recipients or groups is complete, but no delivery notification was sent by the "
        "destination server:"
    ),
}


def notice_text(facts: NoticeFacts) -> str:
    """Return the text, CRLF throughout, at most about 600 characters to a line."""
    lines = [*_for_the_user(facts), "", _RULE, *_for_admins(facts), "", _RULE, *diagnostics(facts), ""]
    return "\r\n".join(lines)


def _for_the_user(facts: NoticeFacts) -> Iterator[str]:
    yield from _paragraph(_HEADINGS[facts.kind])
    for words, group in _by_words(facts):
        yield ""
        yield from (clean_address(one.recipient.forward_path) for one in group[:MAX_RECIPIENTS])
        if len(group) > MAX_RECIPIENTS:
            yield f"(and {len(group) - MAX_RECIPIENTS} more, all named in the delivery status part)"
        yield ""
        yield from _paragraph(_filled(facts, words.happened) + _efforts(facts))
        yield ""
        yield from _advice(facts, words, group)
    yield ""
    yield "Your message:"
    yield f"  Subject:   {facts.subject or '(none)'}"
    yield f"  Received:  {stamp(facts.job.message.accepted_at)}"


def _efforts(facts: NoticeFacts) -> str:
    if facts.kind is NoticeKind.FAILED and facts.job.attempts > 1:
        return f" Delivery was tried {facts.job.attempts} times."
    return ""


def _advice(facts: NoticeFacts, words: Words, group: list[NoticeRecipient]) -> Iterator[str]:
    if facts.kind is NoticeKind.DELAYED:
        ends = [one.will_retry_until for one in group if one.will_retry_until]
        yield from _paragraph(
            "This message hasn't been delivered yet. Delivery will continue to be attempted. You do not have to send "
            f"it again. The server will keep trying for the next {_span(max(ends) - facts.now)}, until "
            f"{stamp(max(ends))}. You'll be notified if the message can't be delivered by that time."
        )
    else:
        yield from _paragraph(f"What you can do: {_filled(facts, words.advice)}")
    if words.fixer:
        yield ""
        yield from _paragraph(f"Who can fix it: {_filled(facts, words.fixer.value)}")


def _for_admins(facts: NoticeFacts) -> Iterator[str]:
    yield "For Email Admins"
    for words, group in _by_words(facts):
        yield ""
        statuses = dict.fromkeys(str(one.status) for one in group)
        yield f"Status code: {', '.join(statuses)}"
        yield from _paragraph(_filled(facts, words.admin))
    attempt = facts.attempt
    refused = any(one.outcome and one.outcome.refused for one in facts.request.recipients)
    if attempt and refused and (found := remedies(facts.job.destination, attempt)):
        yield ""
        yield f"Words for postmaster@{facts.job.destination}, ready to be forwarded:"
        for paragraph in found:
            yield ""
            yield from _paragraph(paragraph, indent="    ")


def _by_words(facts: NoticeFacts) -> list[tuple[Words, list[NoticeRecipient]]]:
    """Recipients with the same explanation together, so that it is given once."""
    groups: dict[Words, list[NoticeRecipient]] = {}
    for one in facts.request.recipients:
        groups.setdefault(_words(facts, one), []).append(one)
    return list(groups.items())


def _words(facts: NoticeFacts, one: NoticeRecipient) -> Words:
    if facts.kind is NoticeKind.RELAYED:
        return RELAYED
    remote = one.outcome is not None and one.outcome.reply is not None
    expired = (one.status.subject, one.status.detail) == (4, 300)
    return remote_words(one.status) if remote and not expired else own_words(one.status)


def _filled(facts: NoticeFacts, text: str) -> str:
    return text.format(domain=facts.job.destination, postmaster=facts.postmaster)


def _paragraph(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _span(span: timedelta) -> str:
    """A duration the way Exchange words it: "1 day, 19 hours and 56 minutes"."""
    minutes = max(int(span.total_seconds()) // 60, 0)
    units = (("day", minutes // 1440), ("hour", minutes // 60 % 24), ("minute", minutes % 60))
    words = [f"{count} {name}{'' if count == 1 else 's'}" for name, count in units if count]
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]])) or "minute"

"""Whether the DNS has the key that reports are signed with (RFC 6376 §3.6.1): unsigned ones are thrown away."""

import re
from typing import assert_never

from policy.answers import Absent, Found, Resolver, Unknown
from relay.dkim import DkimSigner

_KEY = re.compile(rb"(?:^|;)[ \t]*p[ \t]*=([^;]*)")


async def key_record_problem(resolver: Resolver, signer: DkimSigner) -> str | None:
    """Return what is wrong with the record, or None."""
    answer = await resolver.txt(signer.record_name)
    match answer:
        case Found():
            ours = _keys(signer.record.encode("ascii"))
            return None if any(_keys(record) == ours for record in answer.records) else "has another key"
        case Absent():
            return "is not in the DNS"
        case Unknown():
            return f"cannot be looked up ({answer.reason.value}: {answer.detail})"
        case _:
            assert_never(answer)


def _keys(record: bytes) -> list[bytes]:
    return [b"".join(key.split()) for key in _KEY.findall(record)]

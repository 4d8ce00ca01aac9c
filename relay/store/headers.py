"""Where the header section of a message ends (RFC 5322 §2.1). **Pure.**"""


def header_section(start: bytes, max_bytes: int) -> bytes:
    """Return the header section with the empty line, or its first whole lines within `max_bytes`.

    `start` is the beginning of the message: all of it, or more than `max_bytes`.
    """
    if start.startswith(b"\r\n"):
        return b"\r\n"
    end = start.find(b"\r\n\r\n", 0, max_bytes)
    if end >= 0:
        return start[: end + 4]
    if len(start) <= max_bytes:
        return start
    return start[: start.rfind(b"\r\n", 0, max_bytes) + 2] if b"\r\n" in start[:max_bytes] else b""

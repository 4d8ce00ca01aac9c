"""Hostile text made fit for one line of a log, an NDR or a terminal. **Pure.**"""

MAX_LENGTH = 200


def one_line(text: str, limit: int = MAX_LENGTH) -> str:
    """Replace all but printable ASCII by `?` (controls, bidi marks and look-alikes with it), and cut to `limit`."""
    line = text[:limit]
    if line.isascii() and line.isprintable():
        return line
    return "".join([c if c.isascii() and c.isprintable() else "?" for c in line])

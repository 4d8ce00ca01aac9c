"""Text of unknown origin made fit for a terminal or a log line. **Pure.**"""


def printable(text: str, limit: int = 1000) -> str:
    r"""Escape controls, line separators, bidi marks and other invisible characters as \xNN, \uNNNN; cut to `limit`.

    Letters of any script stay as they are, so that internationalised addresses can be read.
    """
    cut = text if len(text) <= limit else f"{text[:limit]}..."
    if cut.isprintable():
        return cut
    return "".join(char if char.isprintable() else _escaped(char) for char in cut)


def _escaped(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

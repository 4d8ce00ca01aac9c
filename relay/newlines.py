"""Line ends of content: CRLF and nothing else (RFC 5321 §2.3.8). **Pure.**"""

import io


def has_bare_newline(content: bytes) -> bool:
    """Whether a CR or LF stands alone. The decoder notes the kinds of line ends in one pass, faster than counting."""
    decoder = io.IncrementalNewlineDecoder(None, translate=False)
    decoder.decode(content.decode("latin-1"), final=True)
    return decoder.newlines not in (None, "\r\n")

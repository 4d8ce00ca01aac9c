"""AUTH as the lab's MX hosts take it."""

import base64

import pytest

from relay.lab.mx_login import LoginExchange

LOGINS = {"relay": "secret"}


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("lines", "codes", "user"),
    [
        ([f"AUTH PLAIN {b64(chr(0) + 'relay' + chr(0) + 'secret')}"], [235], "relay"),
        (["auth plain", b64("\0relay\0secret")], [334, 235], "relay"),
        ([f"AUTH PLAIN {b64('x' + chr(0) + 'relay' + chr(0) + 'secret')}"], [235], "relay"),
        ([f"AUTH LOGIN {b64('relay')}", b64("secret")], [334, 235], "relay"),
        (["AUTH LOGIN", b64("relay"), b64("secret")], [334, 334, 235], "relay"),
        ([f"AUTH PLAIN {b64(chr(0) + 'relay' + chr(0) + 'wrong')}"], [535], ""),
        (["AUTH LOGIN", b64("nobody"), b64("secret")], [334, 334, 535], ""),
        (["AUTH PLAIN", "*"], [334, 501], ""),
        (["AUTH PLAIN !"], [501], ""),
        (["AUTH CRAM-MD5"], [504], ""),
    ],
)
def test_an_exchange(lines: list[str], codes: list[int], user: str) -> None:
    exchange = LoginExchange(LOGINS)
    replies = [exchange.begin(lines[0]), *(exchange.go_on(line) for line in lines[1:])]
    assert [int(reply[:3]) for reply in replies] == codes
    assert (exchange.user, exchange.done) == (user, True)

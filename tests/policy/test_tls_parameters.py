"""What the contexts offer in a handshake (RFC 9325)."""

import ssl

import pytest

from policy.tls import TlsContexts, small_context

CONTEXTS = TlsContexts()
EACH = pytest.mark.parametrize(
    "context",
    [CONTEXTS.verified, CONTEXTS.unverified, CONTEXTS.opportunistic, CONTEXTS.small],
    ids=["verified", "unverified", "opportunistic", "small"],
)


@EACH
@pytest.mark.rfc("9325-3.1.1-a", "9325-3.1.1-b", "9325-3.1.3-a")
def test_nothing_below_tls_1_2_is_offered_and_1_3_is_at_first(context: ssl.SSLContext) -> None:
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert (context.maximum_version is ssl.TLSVersion.TLSv1_2) is (context is CONTEXTS.small)
    assert any(cipher["protocol"] == "TLSv1.3" for cipher in context.get_ciphers())


@pytest.mark.rfc("9325-4.1-a", "9325-4.1-b", "9325-4.2-a", "7672-8.2-a", "7671-3-a")
@pytest.mark.parametrize("context", [CONTEXTS.verified, CONTEXTS.unverified], ids=["verified", "unverified"])
def test_what_is_enforced_prefers_forward_secrecy_and_has_nothing_weak(context: ssl.SSLContext) -> None:
    ciphers = context.get_ciphers()
    names = [cipher["name"] for cipher in ciphers]
    assert not [name for name in names if any(weak in name for weak in ("NULL", "RC4", "EXP", "DES", "MD5", "anon"))]
    assert all(cipher["strength_bits"] >= 128 for cipher in ciphers)
    assert {"ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384"} <= set(names)
    assert not [name for name in names if not name.startswith(("TLS_", "ECDHE-", "DHE-"))]
    assert not [name for name in names if name.endswith("-SHA") or "PSK" in name]


@EACH
@pytest.mark.rfc("9325-3.3-a", "9325-3.10-a", "8461-4.2-i")
def test_no_compression_and_no_resumption_hence_no_early_data(context: ssl.SSLContext) -> None:
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.options & ssl.OP_NO_TICKET


@EACH
@pytest.mark.rfc("9325-3.8-a", "9325-3.7-a", "3207-x-a")
def test_sni_goes_out_and_neither_alpn_nor_a_client_certificate(context: ssl.SSLContext) -> None:
    hello = _client_hello(context, "mx.example.test")
    assert b"mx.example.test" in hello
    assert 16 not in _extensions(hello), "ALPN"


@pytest.mark.rfc("7671-5.1-a")
def test_raw_public_keys_are_not_asked_for() -> None:
    assert 20 not in _extensions(_client_hello(CONTEXTS.unverified, "mx.example.test")), "server_certificate_type"


@pytest.mark.rfc("9325-4.2.1-a", "9325-4.5-a")
def test_the_client_hello_offers_x25519_p256_and_sha256() -> None:
    extensions = _extensions(_client_hello(CONTEXTS.verified, "mx.example.test"))
    groups, signatures = extensions[10], extensions[13]
    assert {b"\x00\x1d", b"\x00\x17"} <= _pairs(groups)
    assert b"\x04\x03" in _pairs(signatures)
    assert b"\x02\x01" not in _pairs(signatures), "RSA with SHA-1"
    assert CONTEXTS.verified.security_level >= 1


@pytest.mark.rfc("9325-5.2-a")
def test_the_small_client_hello_is_small_and_asks_for_what_every_host_of_tls_1_2_knows() -> None:
    small, full = (_client_hello(one, "mx.example.test") for one in (CONTEXTS.small, CONTEXTS.opportunistic))
    assert len(small) < 256 <= len(full)
    extensions = _extensions(small)
    assert 43 not in extensions, "supported_versions, which TLS 1.3 has brought"
    assert 51 not in extensions, "key_share"
    assert _pairs(extensions[10]) == {b"\x00\x17"}, "P-256 alone"
    assert CONTEXTS.small.verify_mode is ssl.CERT_NONE


def test_the_small_client_hello_does_not_go_below_what_the_operator_allows() -> None:
    small = small_context("1.3")
    assert small.minimum_version is ssl.TLSVersion.TLSv1_3
    assert _pairs(_extensions(_client_hello(small, "mx.example.test"))[10]) == {b"\x00\x17"}


def _client_hello(context: ssl.SSLContext, name: str) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


def _extensions(hello: bytes) -> dict[int, bytes]:
    """The extensions of a ClientHello in one record (RFC 8446 §4.1.2)."""
    at = 5 + 4 + 2 + 32
    at += 1 + hello[at]
    at += 2 + int.from_bytes(hello[at : at + 2], "big")
    at += 1 + hello[at]
    end = at + 2 + int.from_bytes(hello[at : at + 2], "big")
    at += 2
    found = {}
    while at < end:
        kind, length = int.from_bytes(hello[at : at + 2], "big"), int.from_bytes(hello[at + 2 : at + 4], "big")
        found[kind] = hello[at + 4 : at + 4 + length]
        at += 4 + length
    return found


def _pairs(extension: bytes) -> set[bytes]:
    return {extension[at : at + 2] for at in range(2, len(extension), 2)}

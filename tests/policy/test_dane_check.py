"""Chains of certificates against TLSA records (RFC 7672 §3, RFC 7671 §5)."""

import pytest
from cryptography.hazmat.primitives import serialization
from dane_cases import FAILS, MX, NO_MATCH, PASSES, demand, record, sent, verdict
from hypothesis import given
from hypothesis import strategies as st

from policy.chains import ChainError, verified_chain
from policy.dane_check import chain_failure
from relay.lab.ca import LabCA, new_authority


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> LabCA:
    return LabCA(tmp_path_factory.mktemp("ca"))


@pytest.mark.rfc(
    "7672-3.1.1-a", "7672-3.1.1-b", "7672-3.2.1-a", "7672-3.1.2-a", "7671-5.2.2-a", "7671-5.2.3-a", "7672-3.2.2-a",
    "7672-3.2.2-b", "7672-3.2.3-a", "6698-4.1-e", "7672-3.2-a", "7672-4-a", "7672-3.1.3-a",
)  # fmt: skip
@pytest.mark.parametrize("case", list(PASSES))
def test_what_dane_accepts(ca: LabCA, case: str) -> None:
    identity, records = PASSES[case](ca)
    assert chain_failure(demand(*records), sent(identity)) is None


@pytest.mark.rfc(
    "7672-2.2-a", "7672-3.1.2-b", "7672-3.1.2-c", "7672-3.1.2-d", "7672-3.2-a", "7672-3.2-b", "7672-5-a",
    "7672-3.2.2-a", "7672-3.2.3-a", "7672-3.2.3-b",
)  # fmt: skip
@pytest.mark.parametrize("case", list(FAILS))
def test_what_dane_refuses(ca: LabCA, case: str) -> None:
    make, expected = FAILS[case]
    identity, records = make(ca)
    failure = chain_failure(demand(*records), sent(identity))
    assert verdict(failure) == expected
    assert failure is not None
    assert failure.certificate is not None
    assert failure.detail.isprintable()
    assert "issued by CN=" in failure.detail


def test_a_mismatch_tells_what_was_looked_for(ca: LabCA) -> None:
    records = [record(3, 1, 1, ca.issue([MX]).certificate) for _ in range(5)]
    failure = chain_failure(demand(*records), sent(ca.issue([MX])))
    assert failure is not None
    assert failure.detail.startswith(f"no TLSA record of {MX} matches: 3 1 1 ")
    assert " and 2 more (certificate for " in failure.detail


def test_a_host_without_a_certificate_matches_nothing(ca: LabCA) -> None:
    failure = chain_failure(demand(record(3, 1, 1, ca.root.certificate)), [])
    assert verdict(failure) == NO_MATCH


@given(octets=st.lists(st.binary(max_size=60), max_size=4), at=st.integers(0, 4))
def test_a_chain_of_junk_raises_nothing(octets: list[bytes], at: int) -> None:
    root = new_authority("Root").certificate
    octets.insert(at, root.public_bytes(serialization.Encoding.DER))
    wanted = demand(record(2, 0, 1, root), record(2, 1, 0, root), record(2, 0, 0, root))
    assert chain_failure(wanted, octets) is not None


def test_the_chain_ends_with_its_anchor(ca: LabCA) -> None:
    leaf, intermediate = sent(ca.issue([MX]))
    root = ca.root.certificate.public_bytes(serialization.Encoding.DER)
    assert verified_chain(leaf, [intermediate, b"junk"], [root, b"junk"]) == (leaf, intermediate, root)
    assert verified_chain(leaf, [intermediate, root], [intermediate]) == (leaf, intermediate)
    assert verified_chain(leaf, [intermediate, root], []) == ChainError(
        code=19, message="self-signed certificate in certificate chain"
    )
    assert isinstance(verified_chain(b"junk", [], [root]), ChainError)

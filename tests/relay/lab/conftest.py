"""A running lab, and contexts that trust it."""

import ssl
from collections.abc import AsyncIterator

import pytest

from relay.lab.client import SmtpClient
from relay.lab.internet import Lab
from relay.lab.loopback import FIRST_MX


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with Lab() as running:
        yield running


@pytest.fixture
def strict(lab: Lab) -> ssl.SSLContext:
    """Verifies as RFC 8461 asks: by the lab's root, names in the subjectAltName only."""
    context = ssl.create_default_context(cafile=str(lab.ca_file))
    context.hostname_checks_common_name = False
    return context


@pytest.fixture
def lenient() -> ssl.SSLContext:
    """Encrypts, and takes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@pytest.fixture
async def client(lab: Lab) -> AsyncIterator[SmtpClient]:
    """A client of the first MX host that the test makes."""
    async with SmtpClient(f"{FIRST_MX}:{lab.smtp_port}", timeout=5) as one:
        yield one

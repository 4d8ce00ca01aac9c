"""What the ingress relies on in aiosmtpd."""

from importlib.metadata import version

import pytest


@pytest.mark.rfc("smug-a")
def test_aiosmtpd_has_its_security_fixes() -> None:
    """1.4.5 ended smuggling (CVE-2024-27305), 1.4.6 cleared the buffer at STARTTLS (CVE-2024-34083)."""
    assert tuple(int(part) for part in version("aiosmtpd").split(".")[:3]) >= (1, 4, 6)

"""Puts the shared fakes, certificates and contract suites within reach of all tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "contract"))

"""Marks that change what a result means, and the shared fakes, certificates and contract suites for all tests."""

import asyncio
import os
import sys
from collections.abc import Callable, Generator, Mapping
from pathlib import Path

import pytest
import uvloop

for directory in ("contract", "e2e", "real"):
    sys.path.insert(0, str(Path(__file__).parent / directory))

# Fixtures of single directories; a second conftest.py would be a second module of that name for mypy.
pytest_plugins = ["e2e_scene", "real_world"]

REQUIRE_ALL = bool(os.environ.get("REQUIRE_ALL"))
"""Set by .ci/run: a skipped test is a failure, since it has shown nothing."""


ON_BOTH_LOOPS = frozenset(
    {
        "test_app_line.py",
        "test_client_chunks.py",
        "test_client_overlap.py",
        "test_client_session.py",
        "test_connection_pool.py",
        "test_policy_fetch.py",
        "test_session_tls.py",
    }
)
"""What the event loop itself does: connections, TLS, closing. These run on uvloop too, as does the relay of e2e."""


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.path.name in ON_BOTH_LOOPS:
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a `stock` test that fails count as an expected failure: the library has lost its fault, which is news."""
    report = yield
    if report.when == "call" and report.failed and item.get_closest_marker("stock"):
        report.outcome = "skipped"
        report.wasxfail = "the library's fault is gone: the remedy may go too"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if REQUIRE_ALL and terminalreporter.stats.get("skipped"):
        terminalreporter.section("skipped tests are failures here (REQUIRE_ALL)", red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if anything was skipped; with xdist only the main process has the reporter's counts."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if REQUIRE_ALL and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED

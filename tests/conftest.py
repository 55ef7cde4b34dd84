"""What the suite says at its end of tests that were not run."""

import pytest

from tests.support.browser import NO_BROWSER


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell loudly of the page's tests: of skips pytest itself shows a number alone."""
    skipped = [r for r in terminalreporter.stats.get("skipped", []) if NO_BROWSER in str(r.longrepr)]
    if skipped:
        line = f"NOT RUN: {len(skipped)} tests of the page: {NO_BROWSER}"
        terminalreporter.write_line(line, red=True, bold=True)

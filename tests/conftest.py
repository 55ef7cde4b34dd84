"""Report at the end of the suite that tests of the page were skipped."""

import pytest

from tests.support.browser import NO_BROWSER


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Report skipped tests of the page in red; pytest itself only shows how many tests it skipped."""
    skipped = [r for r in terminalreporter.stats.get("skipped", []) if NO_BROWSER in str(r.longrepr)]
    if skipped:
        line = f"NOT RUN: {len(skipped)} tests of the page: {NO_BROWSER}"
        terminalreporter.write_line(line, red=True, bold=True)

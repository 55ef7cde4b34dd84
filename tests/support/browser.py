"""Find the Chromium that the page is tested in, or install one.

python -m tests.support.browser     installs one if possible, and reports it on stderr in one line
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
REQUIRED: Final = os.environ.get("REQUIRE_BROWSER") == "1"
NO_BROWSER: Final = "no working Chromium found; `python -m tests.support.browser` installs one"
INSTALL_TIMEOUT_S: Final = 600
PRINT_PLAYWRIGHT_BROWSER: Final = (
    "from playwright.sync_api import sync_playwright\n"
    "with sync_playwright() as playwright: print(playwright.chromium.executable_path)"
)


def find_browser(path: str | None = None) -> str | None:
    """Return a working Chromium or Chrome from `path` (default PATH), else Playwright's own; else None."""
    return next((browser for browser in _candidates(path) if _runs(browser)), None)


def get_browser() -> str:
    """Find a browser, else download Playwright's, else install one with apt-get; return a report."""
    if browser := find_browser():
        return f"browser: found {browser}"
    _try([sys.executable, "-m", "playwright", "install", "chromium"])
    if browser := find_browser():
        return f"browser: downloaded {browser} with Playwright"
    if os.geteuid() == 0 and shutil.which("apt-get"):
        _try(["apt-get", "update"])
        _try(["apt-get", "install", "-y", "--no-install-recommends", "chromium"])
        if browser := find_browser():
            return f"browser: installed {browser} with apt-get"
    return "browser: none found and none could be installed; the tests of the page are skipped"


def _candidates(path: str | None) -> Iterator[str]:
    for name in NAMES:
        if browser := shutil.which(name, path=path):
            yield browser
    # In a separate process, because Playwright's driver cannot run twice in one.
    done = subprocess.run(
        [sys.executable, "-c", PRINT_PLAYWRIGHT_BROWSER],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if (own := Path(done.stdout.strip())).is_file():
        yield str(own)


def _runs(browser: str) -> bool:
    """Whether a browser starts: Ubuntu's may only point to the snap, a download may lack libraries."""
    return _try([browser, "--version"])


def _try(command: list[str]) -> bool:
    environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command, env=environ, capture_output=True, timeout=INSTALL_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


if __name__ == "__main__":
    print(get_browser(), file=sys.stderr)

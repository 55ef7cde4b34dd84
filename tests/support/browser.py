"""Find the Chromium that the page is tested in, or get one.

python -m tests.support.browser     gets one where it may, and says on stderr in one line what it did
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
NO_BROWSER: Final = "no Chromium that runs here; `python -m tests.support.browser` gets one"
INSTALLS_S: Final = 600
PLAYWRIGHTS_OWN: Final = (
    "from playwright.sync_api import sync_playwright\n"
    "with sync_playwright() as playwright: print(playwright.chromium.executable_path)"
)


def find_browser(path: str | None = None) -> str | None:
    """Return a Chromium or Chrome that runs: one on `path` (PATH by default), else Playwright's own."""
    return next((browser for browser in _candidates(path) if _runs(browser)), None)


def get_browser() -> str:
    """Find a browser, else download Playwright's, else install the system's; return a line about it."""
    if browser := find_browser():
        return f"browser: {browser} is here"
    _try([sys.executable, "-m", "playwright", "install", "chromium"])
    if browser := find_browser():
        return f"browser: Playwright has downloaded {browser}"
    if os.geteuid() == 0 and shutil.which("apt-get"):
        _try(["apt-get", "update"])
        _try(["apt-get", "install", "-y", "--no-install-recommends", "chromium"])
        if browser := find_browser():
            return f"browser: apt-get has installed {browser}"
    return "browser: none is here and none can be had, so that the tests of the page are not run"


def _candidates(path: str | None) -> Iterator[str]:
    for name in NAMES:
        if found := shutil.which(name, path=path):
            yield found
    # In a process of its own: Playwright's driver does not like a second one beside it.
    asked = subprocess.run(
        [sys.executable, "-c", PLAYWRIGHTS_OWN], capture_output=True, text=True, check=False, timeout=60
    )
    if (own := Path(asked.stdout.strip())).is_file():
        yield str(own)


def _runs(browser: str) -> bool:
    """Ubuntu's chromium-browser may be a hint to its store alone, and a download may lack libraries."""
    return _try([browser, "--version"])


def _try(command: list[str]) -> bool:
    environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(command, env=environ, capture_output=True, timeout=INSTALLS_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


if __name__ == "__main__":
    print(get_browser(), file=sys.stderr)

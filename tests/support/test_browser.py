"""Test how the browser for the tests of the page is found, and what happens without one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.browser import NO_BROWSER, find_browser
from tests.support.checkout import ROOT


def program(folder: Path, name: str, code: int = 0) -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f'#!/bin/sh\n[ "$1" = --version ] && exit {code}\nexit 9\n')
    (folder / name).chmod(0o755)
    return str(folder / name)


@pytest.fixture
def nothing_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "downloads"))


def test_chromium_is_preferred_anywhere_on_the_path(tmp_path: Path) -> None:
    program(tmp_path / "a", "google-chrome")
    chromium = program(tmp_path / "b", "chromium")
    assert find_browser(f"{tmp_path}/a:{tmp_path}/b") == chromium


def test_browser_that_does_not_start_is_skipped(tmp_path: Path) -> None:
    """Ubuntu's chromium-browser does not start without its snap."""
    program(tmp_path, "chromium-browser", code=1)
    chrome = program(tmp_path, "google-chrome-stable")
    assert find_browser(str(tmp_path)) == chrome


@pytest.mark.usefixtures("nothing_downloaded")
def test_find_browser_returns_none_without_a_browser(tmp_path: Path) -> None:
    (tmp_path / "chromium").write_text("no program")
    program(tmp_path, "chrome", code=1)
    assert find_browser(str(tmp_path)) is None


def environ(tmp_path: Path, **more: str) -> dict[str, str]:
    """Return the environment of a machine without a browser and without a way to install one."""
    no_browser = {
        "PATH": str(tmp_path),
        "PLAYWRIGHT_BROWSERS_PATH": str(tmp_path),
        "PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD": "1",
    }
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "REQUIRE_"))}
    return inherited | no_browser | more


def test_failed_installation_is_reported_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.support.browser"]
    done = subprocess.run(
        command, env=environ(tmp_path), cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert done.stderr.startswith("browser: none found and none could be installed")


@pytest.mark.parametrize("required", [False, True])
def test_page_tests_without_a_browser_are_reported_or_fail(tmp_path: Path, required: bool) -> None:
    names = ["tests/page/test_card.py", "-k", "wide_table"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *names],
        env=environ(tmp_path, **({"REQUIRE_BROWSER": "1"} if required else {})),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if required:
        assert done.returncode == 1
        assert f"REQUIRE_BROWSER=1, but {NO_BROWSER}" in done.stdout
    else:
        assert done.returncode == 0
        assert f"NOT RUN: 1 tests of the page: {NO_BROWSER}" in done.stdout

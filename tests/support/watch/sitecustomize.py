"""Put first into PYTHONPATH, this writes a line into the file BLOCKED for each call that can wait for a
disk, a network or a clock and was made on the event loop's thread: the call, and where it came from.

Python's own audit events say when a file is opened, a folder listed, a name looked up, a process started;
time.sleep is wrapped, because it has an event from 3.13 on only.
"""

import asyncio
import os
import sys
import time
import traceback
from typing import Any

EVENTS = {
    *("open", "os.listdir", "os.scandir", "os.remove", "os.rename", "os.mkdir", "shutil.copyfile"),
    *("subprocess.Popen", "os.system", "socket.connect", "socket.getaddrinfo", "socket.gethostbyname"),
    *("urllib.Request", "sqlite3.connect", "time.sleep"),
}
report = os.open(os.environ["BLOCKED"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in EVENTS or asyncio._get_running_loop() is None:
        return
    if str(arguments[0]).startswith(("/proc/", "/sys/")):  # not on a disk; /metrics looks there
        return
    codes = [(frame.f_code, line) for frame, line in traceback.walk_stack(sys._getframe(1))]
    # A module is imported once, and a traceback's lines are read when something has failed already.
    if any(
        code.co_name == "updatecache" or "<frozen importlib" in code.co_filename for code, _line in codes
    ):
        return
    where = " < ".join(f"{code.co_name} ({code.co_filename}:{line})" for code, line in codes)
    os.write(report, f"{event} {arguments[:1]} in {where}\n".encode())


sleep = time.sleep


def watched_sleep(seconds: Any) -> None:
    watch("time.sleep", (seconds,))
    sleep(seconds)


time.sleep = watched_sleep
sys.addaudithook(watch)

"""Run HAProxy with docker/haproxy.cfg in front of servers on the loopback."""

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from benchmarks.support.vitals import ask
from service.parsers import AUTO
from service.settings import Settings

CONFIG = Path(__file__).parents[2] / "docker" / "haproxy.cfg"


@contextmanager
def proxy(*servers: str, log: IO[str] | int = subprocess.DEVNULL) -> Iterator[str]:
    """Run the proxy in front of the addresses `servers`; yield its address. Needs `haproxy` on the PATH."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = Settings.from_environ()
    workers = "auto" if settings.workers == AUTO else str(settings.workers)
    environ = {"TLS_FILE": "", "MAX_QUEUE": str(settings.max_queue), "WORKERS": workers}
    replicas = [
        f"server replica{n} {server.removeprefix('http://')}" for n, server in enumerate(servers, 1)
    ]
    config, address = CONFIG.read_text(), f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        for original, replacement in {
            "bind :8000\n": f"bind 127.0.0.1:{port}\n",
            "bind 127.0.0.1:8001": f"bind {folder}/health",
            "bind :8002": f"bind {folder}/metrics",
            " resolvers docker init-addr none": "",
            "server-template replica 16 service:8000": "\n    ".join(replicas),
        }.items():
            assert config.count(original) == 1, original
            config = config.replace(original, replacement)
        file = Path(folder) / "haproxy.cfg"
        file.write_text(config)
        command = ["haproxy", "-db", "-f", str(file)]
        with subprocess.Popen(command, env=os.environ | environ, stdout=log) as process:
            try:
                while ask(address, "GET", "/health").status != 200:
                    if process.poll() is not None:
                        raise SystemExit("error: haproxy did not start; its message is above")
                yield address
            finally:
                process.terminate()

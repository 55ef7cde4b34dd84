"""The stack of docker-compose.yml in a real engine, under a project name and ports of its own."""

import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.checkout import free_port

ROOT = Path(__file__).parents[2]
PROJECT = "alexnet-test"
# All that is taken from the environment of the tests: how to reach the engine, and what to build from.
PASSED = ("PATH", "HOME", "DOCKER_HOST", "DOCKER_CONFIG", "DOCKER_CONTEXT", "BASE_IMAGE", "WHEELS")


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout


def inspect(name: str) -> Any:
    return json.loads(docker("inspect", name))[0]


@dataclass
class Stack:
    """`settings` are what a .env would hold."""

    settings: dict[str, str]
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.settings |= {"PORT": str(free_port()), "PROMETHEUS_PORT": str(free_port())}
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.settings['PORT']}", timeout=60)

    def compose(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        environ = {name: os.environ[name] for name in PASSED if name in os.environ}
        return subprocess.run(
            ["docker", "compose", "--env-file", os.devnull, "-p", PROJECT, *arguments],
            env=environ | self.settings | settings,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=800,
        )

    def do(self, *arguments: str, **settings: str) -> str:
        done = self.compose(*arguments, **settings)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def up(self, *arguments: str, **settings: str) -> None:
        self.do("up", "-d", "--wait", *arguments, **settings)

    def containers(self, service: str) -> list[str]:
        return self.do("ps", "-a", "-q", service).split()

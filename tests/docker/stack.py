"""Run the stack of docker-compose.yml under its own project name and ports."""

import io
import json
import os
import subprocess
from dataclasses import dataclass, field
from typing import Any

import httpx
from PIL import Image

from tests.support.checkout import ROOT, free_port

PROJECT = "alexnet-test"
RED = (210, 50, 30)
# The only environment variables passed on: how to reach the engine, and what to build from.
PASSED = ("PATH", "HOME", "DOCKER_HOST", "DOCKER_CONFIG", "DOCKER_CONTEXT", "BASE_IMAGE", "WHEELS")


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout


def inspect(name: str) -> Any:
    return json.loads(docker("inspect", name))[0]


@dataclass
class Stack:
    """The services of docker-compose.yml; `settings` are the values of .env."""

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


def photograph(width: int = 640, height: int = 480, quality: int = 75) -> bytes:
    """Draw a red JPEG with noise, so that it is as large as a photograph."""
    noise = Image.effect_noise((width, height), 60).convert("RGB")
    picture, buffer = Image.blend(noise, Image.new("RGB", noise.size, RED), 0.7), io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def top_label(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["predictions"][0]["label"])

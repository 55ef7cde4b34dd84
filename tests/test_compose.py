"""Test the variables of the compose files and of .env.example, and the limits of docker-compose.gpu.yml."""

import re

from service.server.worker_count import worker_bytes
from service.settings import Settings
from tests.support.checkout import ROOT

COMPOSE = (ROOT / "docker-compose.yml").read_text()
GPU = (ROOT / "docker-compose.gpu.yml").read_text()
EXAMPLE = dict(re.findall(r"^#([A-Z0-9_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.M))


def test_every_variable_is_in_the_example() -> None:
    used = set(re.findall(r"\$\{([A-Z0-9_]+)", COMPOSE)) | set(
        re.findall(r"^ +- ([A-Z0-9_]+)$", COMPOSE, re.M)
    )
    for arguments in re.findall(r"args: \[(.*)\]", COMPOSE):
        used |= set(arguments.split(", "))
    assert set(EXAMPLE) == used
    assert {name.upper() for name in Settings.model_fields} <= used


def test_example_has_the_defaults_of_dockerfiles_and_compose() -> None:
    """The defaults of the settings are written by scripts/settings.py."""
    defaults: dict[str, str] = {}
    for dockerfile in (ROOT / "docker").glob("*.Dockerfile"):
        defaults |= dict(re.findall(r"^ARG ([A-Z0-9_]+)=(.*)$", dockerfile.read_text(), re.M))
    defaults |= dict(re.findall(r"\$\{([A-Z0-9_]+):-([^}]*)\}", COMPOSE))
    placeholders = {"/dev/null", "./docker"}  # stand for a file or folder that is not configured
    defaults |= {name: "" for name, value in defaults.items() if value in placeholders}
    documented = {name: EXAMPLE[name] for name in defaults if name in EXAMPLE}
    assert len(documented) > 10
    assert documented == {name: defaults[name] for name in documented}


def test_memory_with_a_gpu_is_enough_for_the_workers_of_16_cores() -> None:
    (gibibytes,) = re.findall(r"mem_limit: \$\{MEMORY:-(\d+)g\}", GPU)
    assert int(gibibytes) * 2**30 >= 8 * worker_bytes(Settings(), on_gpu=True)


def test_service_and_proxy_get_the_same_workers() -> None:
    """The proxy refuses requests by this number, and none with auto."""
    for text, default in ((COMPOSE, "1"), (GPU, "auto")):
        proxy = text[text.index("\n  proxy:") :]
        assert re.findall(r" WORKERS=\$\{WORKERS:-(\w+)\}", proxy) == [default]
    service = GPU[GPU.index("\n  service:") : GPU.index("\n  proxy:")]
    assert re.findall(r" WORKERS=\$\{WORKERS:-(\w+)\}", service) == ["auto"]
    assert str(Settings().workers) == "1"

"""Test that .env.example has every variable of docker-compose.yml and the Dockerfiles."""

import re

from service.settings import Settings
from tests.support.checkout import ROOT

COMPOSE = (ROOT / "docker-compose.yml").read_text()
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

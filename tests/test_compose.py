"""The variables of docker-compose.yml and the Dockerfiles are in .env.example, with their defaults."""

import re

from service.settings import Settings
from tests.support.checkout import ROOT

COMPOSE = (ROOT / "docker-compose.yml").read_text()
EXAMPLE = dict(re.findall(r"^#([A-Z0-9_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.M))


def test_every_variable_is_explained() -> None:
    used = set(re.findall(r"\$\{([A-Z0-9_]+)", COMPOSE)) | set(
        re.findall(r"^ +- ([A-Z0-9_]+)$", COMPOSE, re.M)
    )
    for arguments in re.findall(r"args: \[(.*)\]", COMPOSE):
        used |= set(arguments.split(", "))
    assert set(EXAMPLE) == used
    assert {name.upper() for name in Settings.model_fields} <= used


def test_the_values_in_the_example_are_those_of_the_dockerfiles_and_of_compose() -> None:
    """The others are written by scripts/settings.py."""
    defaults: dict[str, str] = {}
    for dockerfile in (ROOT / "docker").glob("*.Dockerfile"):
        defaults |= dict(re.findall(r"^ARG ([A-Z0-9_]+)=(.*)$", dockerfile.read_text(), re.M))
    defaults |= dict(re.findall(r"\$\{([A-Z0-9_]+):-([^}]*)\}", COMPOSE))
    nothing = {"/dev/null", "./docker"}  # what stands in for a file or a folder that is not named
    defaults |= {name: "" for name, value in defaults.items() if value in nothing}
    shown = {name: EXAMPLE[name] for name in defaults if name in EXAMPLE}
    assert len(shown) > 10
    assert shown == {name: defaults[name] for name in shown}

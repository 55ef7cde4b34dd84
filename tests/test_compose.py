""".env.example against what it explains: docker-compose.yml, the service's settings, the Dockerfiles."""

import re
from dataclasses import fields

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
    assert {field.name.upper() for field in fields(Settings)} <= used


def test_the_values_in_the_example_are_the_defaults() -> None:
    defaults = {
        field.name.upper(): "" if field.default is None else str(field.default).removesuffix(".0")
        for field in fields(Settings)
    }
    for dockerfile in (ROOT / "docker").glob("*.Dockerfile"):
        defaults |= dict(re.findall(r"^ARG ([A-Z0-9_]+)=(.*)$", dockerfile.read_text(), re.M))
    defaults |= dict(re.findall(r"\$\{([A-Z0-9_]+):-([^}]*)\}", COMPOSE))
    nothing = {"/dev/null", "./docker"}  # what stands in for a file or a folder that is not named
    defaults |= {name: "" for name, value in defaults.items() if value in nothing}
    assert {name: defaults.get(name, "") for name in EXAMPLE} == EXAMPLE

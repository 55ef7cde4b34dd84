"""Write the settings into documents, `.env.example`, docker-compose.yml and `--help`, for cog.

`scripts/check --fix` runs it. The source is service/settings.py; docker-compose.yml adds the values that
differ in a container, written there by hand as `NAME=${NAME:-value}`.
"""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from service.settings import Settings

ROOT: Final = Path(__file__).parents[1]
# The first setting of each group, in the order of `Settings`.
GROUPS: Final = {
    "host": "Address and access",
    "models": "Models",
    "device": "GPU",
    "workers": "Processes and threads",
    "max_batch": "Batches and images in flight",
    "max_body_bytes": "Limits of a request",
    "max_connections": "Connections",
    "drain_delay_s": "Shutdown",
}
# In a container, compose sets these by `ports` and `volumes`.
NOT_PASSED: Final = ("host", "port", "models")


def tables() -> str:
    """Write a table of each group, for docs/settings.md."""
    lines = []
    for title in GROUPS.values():
        lines += ["", f"## {title}", "", "| variable | default | meaning |", "|---|---|---|"]
        lines += [f"| `{name.upper()}` | {_code(name)} | {_meaning(name)} |" for name in _group(title)]
    return "\n".join([*lines, ""])


def example(title: str) -> str:
    """Write the commented-out settings of a group, for .env.example."""
    overrides, lines = _compose_values(), []
    for name in _group(title):
        if name not in NOT_PASSED:
            lines += textwrap.wrap(_meaning(name), 118, initial_indent="# ", subsequent_indent="# ")
            lines.append(f"#{name.upper()}={overrides.get(name.upper(), _default(name))}")
    return "\n".join(lines)


def passed() -> str:
    """Write the variables that compose passes to the service unchanged."""
    names = [name for name in Settings.model_fields if name not in NOT_PASSED]
    return "\n".join(f"- {name.upper()}" for name in names if name.upper() not in _compose_values())


def cli_help() -> str:
    """Write the Python that `--help` prints; it must run before pydantic is installed."""
    lines = ['SETTINGS: Final = """\\']
    for name in Settings.model_fields:
        default = f" (default {_default(name)})" if _default(name) else ""
        lines += [
            f"  {name.upper()}",
            textwrap.indent(textwrap.fill(_meaning(name) + default, 90), " " * 6),
        ]
    switches = [name.upper() for name, field in Settings.model_fields.items() if field.annotation is bool]
    return "\n".join([*lines, '"""', "SWITCHES: Final = {", *(f'    "{name}",' for name in switches), "}"])


def _group(title: str) -> Iterator[str]:
    current = ""
    for name in Settings.model_fields:
        current = GROUPS.get(name, current)
        if current == title:
            yield name


def _meaning(name: str) -> str:
    return Settings.model_fields[name].description or ""


def _default(name: str) -> str:
    """Format a default as it is written in the environment; "" if unset."""
    default = Settings.model_fields[name].default
    if isinstance(default, Path):
        return str(default.relative_to(ROOT))
    if isinstance(default, bool):
        return str(int(default))
    return "" if default is None else str(default).removesuffix(".0")


def _code(name: str) -> str:
    return f"`{_default(name)}`" if _default(name) else ""


def _compose_values() -> dict[str, str]:
    """Return the variables of the service that docker-compose.yml sets by hand, with their defaults."""
    text = (ROOT / "docker-compose.yml").read_text()
    service = text[text.index("\n  service:") : text.index("\n  proxy:")]
    lines = re.findall(r"^ +- ([A-Z0-9_]+)=\$\{\1(?::-([^}]*))?", service, re.M)
    return dict(lines)

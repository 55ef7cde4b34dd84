"""Run pip-audit on docker/requirements/*.txt.

pip-audit passes a package that its advisory service does not know. Here that is a failure, because a
registry without advisories gives the same response.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main(arguments: list[str]) -> int:
    worst = 0
    for file in sorted((ROOT / "docker" / "requirements").glob("*.txt")):
        command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "-r", str(file)]
        done = subprocess.run(
            [*command, "-f", "json", "--progress-spinner", "off", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        code, lines = verdict(done.stdout, done.stderr)
        print(*(f"{file.stem}: {line}" for line in lines), sep="\n")
        worst = max(worst, code)
    return worst


def verdict(report: str, log: str) -> tuple[int, list[str]]:
    """Return the exit code and the lines to print for one run, from its JSON report and its log."""
    try:
        packages = json.loads(report)["dependencies"]
    except (ValueError, KeyError):
        reason = (log.strip().splitlines() or ["no report"])[-1]
        return 2, [f"nothing was looked up, the advisories cannot be reached: {reason[:300]}"]
    lines = [
        f"{p['name']} {p['version']} has {v['id']}; fixed in {', '.join(v['fix_versions']) or 'none yet'}"
        for p in packages
        for v in p.get("vulns", [])
    ]
    unknown = [p["name"] for p in packages if "skip_reason" in p]
    if unknown:
        lines.append(f"{len(unknown)} of {len(packages)} could not be looked up: {', '.join(unknown)}")
        return 2, lines
    if not packages:
        return 2, ["the report is empty"]
    return (1, lines) if lines else (0, [f"{len(packages)} looked up, none has a known vulnerability"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Check the folders of a run before anything is read, and report all problems at once."""

from pathlib import Path

from training.run.lock import contents, holder, in_use


def path_problems(data: Path | None, out: Path | None, start: str | None, resume: bool) -> list[str]:
    """Check --data, --out and --from -> a line for each reason why training cannot start."""
    problems = []
    if data is None:
        problems.append("--data is missing; name the folder of photographs, with a folder for each class")
        if resume and out and not contents(out):
            problems.append(f"--resume: there is no run in {out}")
    elif data.is_dir():
        if out and any(out.resolve().is_relative_to(root.resolve()) for root in _class_roots(data)):
            problems.append(
                f"{out} is in {data}, and would be taken for a class; choose a folder elsewhere"
            )
    else:
        problems.append(f"{data} is not a folder; expected one with a folder of images per class")
    if out is None:
        if resume:
            problems.append("--out is missing; name the run to resume")
    elif out.exists() and not out.is_dir():
        problems.append(f"{out} is a file; --out is a folder")
    elif process := holder(out):
        problems.append(in_use(out, process))
    elif not resume and contents(out):
        problems.append(f"{out} is not empty; add --resume, or choose another folder")
    if start not in {None, "base", "scratch"} and not Path(start).exists():
        problems.append(f"--from is {start}, which does not exist; use base, scratch, a run or a file")
    return problems


def _class_roots(data: Path) -> list[Path]:
    """Return the folders whose subfolders are classes."""
    return [data / name for name in ("train", "val")] if (data / "train").is_dir() else [data]

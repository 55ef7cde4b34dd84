"""Answers as lines on the standard output, each as it comes, and how far the work has got on stderr."""

import csv
import json
import shutil
import time
import unicodedata
from collections.abc import Callable, Sequence
from typing import Final, Protocol, Self, TextIO

from alexnet_client.schemas import PredictResponse, Problem

COLUMNS: Final = ("file", "rank", "label", "index", "probability", "error")
BAR: Final = 30  # characters


class Writer(Protocol):
    def __call__(self, name: str, answer: PredictResponse | Problem) -> None: ...


def json_lines(out: TextIO, _names: Sequence[str]) -> Writer:
    """The answer over HTTP, or its problem, and `file`."""

    def write(name: str, answer: PredictResponse | Problem) -> None:
        print(json.dumps({"file": name} | answer.model_dump(mode="json")), file=out, flush=True)

    return write


def comma_separated(out: TextIO, _names: Sequence[str]) -> Writer:
    """A row for each prediction, one with `error` for a file without any."""
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(COLUMNS)

    def write(name: str, answer: PredictResponse | Problem) -> None:
        if isinstance(answer, Problem):
            rows.writerow([name, "", "", "", "", answer.detail])
        else:
            for rank, each in enumerate(answer.predictions, 1):
                rows.writerow([name, rank, each.label, each.index, each.probability, ""])
        out.flush()

    return write


def table(out: TextIO, names: Sequence[str]) -> Writer:
    """For people: on a terminal, names that leave no room for a label lose their beginning."""
    columns = shutil.get_terminal_size().columns if out.isatty() else 1 << 30
    width = min(max(_cells(_printable(name)) for name in names), max(columns - 40, columns // 2))

    def write(name: str, answer: PredictResponse | Problem) -> None:
        shown = _cut(_printable(name), width)
        first = shown + " " * (width - _cells(shown))
        if isinstance(answer, Problem):
            print(f"{first}     error  {_printable(answer.detail)}", file=out)
        else:
            for each in answer.predictions:
                print(f"{first}  {100 * each.probability:6.2f} %  {_printable(each.label)}", file=out)
                first = " " * width
        out.flush()

    return write


FORMATS: Final[dict[str, Callable[[TextIO, Sequence[str]], Writer]]] = {
    "table": table,
    "jsonl": json_lines,
    "csv": comma_separated,
}


class Progress:
    """A bar on the last line of a terminal; nothing elsewhere, nor for a single file."""

    def __init__(self, out: TextIO, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._out, self._total, self._clock = out, total, clock
        self._shown = total > 1 and out.isatty()
        self._began, self._done = clock(), 0

    def __enter__(self) -> Self:
        self._show("")
        return self

    def __exit__(self, *_error: object) -> None:
        self.clear()

    def step(self) -> None:
        """One more is done."""
        self._done += 1
        left = (self._clock() - self._began) / self._done * (self._total - self._done)
        self._show(f", {left:.0f} s left")

    def clear(self) -> None:
        """Before anything else is printed."""
        if self._shown:
            self._out.write("\r\x1b[K")
            self._out.flush()

    def _show(self, left: str) -> None:
        if self._shown:
            bar = ("#" * (BAR * self._done // self._total)).ljust(BAR, ".")
            self._out.write(f"\r\x1b[K[{bar}] {self._done} of {self._total}{left}")
            self._out.flush()


def _printable(text: str) -> str:
    """Without what would move the cursor or is no character at all."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _cells(text: str) -> int:
    """The columns that a terminal gives it: two for East Asian characters, none for combining ones."""
    return sum(
        0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text
    )


def _cut(text: str, width: int) -> str:
    """The end of a path says more than its beginning."""
    if _cells(text) <= width:
        return text
    while _cells(text) > width - 1:
        text = text[1:]
    return "…" + text

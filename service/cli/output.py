"""Print results as a table, CSV or JSON lines on stdout, and a progress bar on stderr."""

import csv
import json
import shutil
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol, Self, TextIO

from alexnet_client.schemas import PredictResponse, Problem

# New columns are added at the end: readers may take the others by their position.
COLUMNS: Final = (
    *("file", "rank", "label", "index", "probability", "error"),
    *("known", "unfamiliarity", "set"),
)
BAR_WIDTH: Final = 30  # characters


class Writer(Protocol):
    """Writes the result of one file."""

    def __call__(self, name: str, result: PredictResponse | Problem) -> None: ...


def json_lines(out: TextIO, _names: Sequence[str]) -> Writer:
    """Write one JSON object per file: the response of POST /predict, or a problem, and `file`."""

    def write(name: str, result: PredictResponse | Problem) -> None:
        print(json.dumps({"file": name} | result.model_dump(mode="json")), file=out, flush=True)

    return write


def csv_rows(out: TextIO, _names: Sequence[str]) -> Writer:
    """Write a CSV row per prediction; a failed file gets one row with `error`.

    The last three columns are the same in every row of a file, and empty without a value; `set` has labels
    separated by `;`.
    """
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(COLUMNS)

    def write(name: str, result: PredictResponse | Problem) -> None:
        if isinstance(result, Problem):
            rows.writerow([name, "", "", "", "", result.detail, "", "", ""])
        else:
            known = "" if result.known is None else str(result.known).lower()
            unfamiliarity = "" if result.unfamiliarity is None else result.unfamiliarity
            trust = known, unfamiliarity, ";".join(result.set or ())
            for rank, prediction in enumerate(result.predictions, 1):
                values = prediction.label, prediction.index, prediction.probability
                rows.writerow([name, rank, *values, "", *trust])
        out.flush()

    return write


def table(out: TextIO, names: Sequence[str]) -> Writer:
    """Write an aligned table; on a terminal, long names lose their beginning to leave room for labels."""
    columns = shutil.get_terminal_size().columns if out.isatty() else 1 << 30
    width = min(max(_display_width(_printable(name)) for name in names), max(columns - 40, columns // 2))

    def write(name: str, result: PredictResponse | Problem) -> None:
        shown = _truncate(_printable(name), width)
        first = shown + " " * (width - _display_width(shown))
        for heading, text in _lines(result):
            print(f"{first}  {heading:>8}  {_printable(text)}", file=out)
            first = " " * width
        out.flush()

    return write


def _lines(result: PredictResponse | Problem) -> Iterator[tuple[str, str]]:
    """Yield the lines of a file in the table, each with its heading of up to 8 characters."""
    if isinstance(result, Problem):
        yield "error", result.detail
        return
    if result.known is False:
        yield "unknown", f"unfamiliarity {result.unfamiliarity:.2f}; most like:"
    for prediction in result.predictions:
        yield f"{100 * prediction.probability:.2f} %", prediction.label
    if result.set is not None:
        yield "set", ", ".join(result.set) or "none: no label is probable enough"


FORMATS: Final[dict[str, Callable[[TextIO, Sequence[str]], Writer]]] = {
    "table": table,
    "jsonl": json_lines,
    "csv": csv_rows,
}


class Progress:
    """A progress bar on the last line of a terminal; nothing for a single file or without a terminal."""

    def __init__(self, out: TextIO, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._out, self._total, self._clock = out, total, clock
        self._shown = total > 1 and out.isatty()
        self._started, self._done = clock(), 0

    def __enter__(self) -> Self:
        self._show("")
        return self

    def __exit__(self, *_error: object) -> None:
        self.clear()

    def step(self) -> None:
        """Count one more file as done."""
        self._done += 1
        left = (self._clock() - self._started) / self._done * (self._total - self._done)
        self._show(f", {left:.0f} s left")

    def clear(self) -> None:
        """Erase the progress bar, before anything else is printed."""
        if self._shown:
            self._out.write("\r\x1b[K")
            self._out.flush()

    def _show(self, left: str) -> None:
        if self._shown:
            bar = ("#" * (BAR_WIDTH * self._done // self._total)).ljust(BAR_WIDTH, ".")
            self._out.write(f"\r\x1b[K[{bar}] {self._done} of {self._total}{left}")
            self._out.flush()


def _printable(text: str) -> str:
    """Replace control characters and invalid characters by `?`."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _display_width(text: str) -> int:
    """Count terminal columns: two for wide East Asian characters, none for combining ones."""
    return sum(
        0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text
    )


def _truncate(text: str, width: int) -> str:
    """Truncate at the start: the end of a path says more."""
    if _display_width(text) <= width:
        return text
    while _display_width(text) > width - 1:
        text = text[1:]
    return "…" + text

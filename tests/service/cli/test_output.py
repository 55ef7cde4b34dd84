"""The table, CSV and JSON lines of `predict`, without a model."""

import csv
import io
import json
from typing import Any

from alexnet_client.schemas import ImageInfo, ModelName, Prediction, PredictResponse, Problem, Timing
from service.cli.output import csv_rows, json_lines, table
from service.problems import make_problem


def response(**trust: Any) -> PredictResponse:
    return PredictResponse(
        predictions=[
            Prediction(label="red rose", index=1, probability=0.75),
            Prediction(label="daisy", index=0, probability=0.25),
        ],
        model=ModelName(name="m", version=1, sha256="0"),
        image=ImageInfo(width=1, height=1, format="PNG"),
        timing_ms=Timing(decode=0, queue=0, inference=0, total=0),
        **trust,
    )


RESULTS: dict[str, PredictResponse | Problem] = {
    "known": response(known=True, unfamiliarity=0.25, set=["red rose", "daisy"]),
    "unknown": response(known=False, unfamiliarity=0.987, set=[]),
    "neither": response(),
    "broken": make_problem(422, "invalid_image", "it is broken"),
}


def written(form: Any) -> str:
    out = io.StringIO()
    write = form(out, list(RESULTS))
    for name, result in RESULTS.items():
        write(name, result)
    return out.getvalue()


def test_table_marks_unknown_images_and_has_the_set_below_the_labels() -> None:
    assert written(table).splitlines() == [
        "known     75.00 %  red rose",
        "          25.00 %  daisy",
        "              set  red rose, daisy",
        "unknown   unknown  unfamiliarity 0.99; most like:",
        "          75.00 %  red rose",
        "          25.00 %  daisy",
        "              set  none: no label is probable enough",
        "neither   75.00 %  red rose",
        "          25.00 %  daisy",
        "broken      error  it is broken",
    ]


def test_csv_has_trust_in_every_row_of_a_file_after_the_other_columns() -> None:
    header, *rows = csv.reader(written(csv_rows).splitlines())
    assert header[:6] == ["file", "rank", "label", "index", "probability", "error"]
    assert [(row[0], row[1], row[5], *row[6:]) for row in [header, *rows]] == [
        ("file", "rank", "error", "known", "unfamiliarity", "set"),
        ("known", "1", "", "true", "0.25", "red rose;daisy"),
        ("known", "2", "", "true", "0.25", "red rose;daisy"),
        ("unknown", "1", "", "false", "0.987", ""),
        ("unknown", "2", "", "false", "0.987", ""),
        ("neither", "1", "", "", "", ""),
        ("neither", "2", "", "", "", ""),
        ("broken", "", "it is broken", "", "", ""),
    ]


def test_json_lines_are_the_responses() -> None:
    known, unknown, neither, broken = map(json.loads, written(json_lines).splitlines())
    assert (known["known"], known["unfamiliarity"], known["set"]) == (True, 0.25, ["red rose", "daisy"])
    assert (unknown["known"], unknown["set"]) == (False, [])
    assert neither.keys() == {"file", "predictions", "model", "image", "timing_ms"}
    assert broken["detail"] == "it is broken"

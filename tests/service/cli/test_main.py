"""`python -m service predict` with a local model, as a process, on real files."""

import csv
import os
import pty
import signal
import subprocess
from pathlib import Path

import pytest

from service.cli.inputs import find_files
from tests.support.serving.command import COMMAND, environ, predict, records, refused
from tests.support.serving.images import encoded, noise, plain
from tests.support.serving.server import Server


def test_each_file_of_a_batch_gets_its_own_result(model_file: Path, server: Server, tmp_path: Path) -> None:
    for seed in range(40):
        (tmp_path / f"{seed:02}.jpg").write_bytes(encoded(noise(seed)))
    results = records(
        predict("*.jpg", "--format", "jsonl", "--model", model_file, cwd=tmp_path, MAX_BATCH=7)
    )
    for seed, record in enumerate(results):
        answer = server.client.post("/predict", content=(tmp_path / record["file"]).read_bytes()).json()
        assert record["file"] == f"{seed:02}.jpg"
        expected = {p["label"]: p["probability"] for p in answer["predictions"]}
        assert {p["label"]: p["probability"] for p in record["predictions"]} == pytest.approx(
            expected, abs=1e-5
        )
    assert len(results) == 40


def test_csv(model_file: Path, photos: Path) -> None:
    odd = os.fsdecode(b'x, "y" \xff.jpg')
    (photos / odd).write_bytes(encoded(noise(7)))
    done = predict(
        "a.jpg", "b.jpg", odd, "--top-k", 2, "--format", "csv", "--model", model_file, cwd=photos
    )
    header, *rows = csv.reader(done.stdout.splitlines())
    assert header[:6] == ["file", "rank", "label", "index", "probability", "error"]
    assert header[6:] == ["known", "unfamiliarity", "set"]
    assert [row[6:] for row in rows] == [["", "", ""]] * 5, "this model has no trust"
    assert [row[:2] for row in rows] == [
        ["a.jpg", "1"],
        ["a.jpg", "2"],
        ["b.jpg", ""],
        [odd, "1"],
        [odd, "2"],
    ]
    assert float(rows[0][4]) > float(rows[1][4])
    assert rows[2][2:5] == ["", "", ""]
    assert "corrupt or truncated" in rows[2][5]
    assert done.returncode == 1


def test_table_is_aligned_and_reports_failures(model_file: Path, photos: Path) -> None:
    (photos / "向日葵\x1b[2J.jpg").write_bytes(encoded(noise(8)))
    done = predict("a.jpg", "*日*", "b.jpg", "--top-k", 1, "--model", model_file, cwd=photos)
    narrow, wide, broken = done.stdout.splitlines()
    assert (narrow[:6], wide[:12], broken[:6]) == ("a.jpg ", "向日葵?[2J.jpg ", "b.jpg ")
    assert narrow.index("%") == broken.index("error") + 4
    assert narrow.index("%") == wide.index("%") + 3, "three characters that are two columns wide"
    assert "\x1b" not in done.stdout
    assert "the JPEG file is corrupt or truncated" in broken


def on_a_terminal(*arguments: object, cwd: Path, columns: int) -> str:
    """Run the command on a terminal of `columns`; return what it shows, stdout and stderr."""
    master, terminal = pty.openpty()
    command = COMMAND + [str(a) for a in arguments]
    with subprocess.Popen(
        command, cwd=cwd, stdout=terminal, stderr=terminal, env=environ(COLUMNS=columns)
    ) as process:
        os.close(terminal)
        output = b""
        try:
            while chunk := os.read(master, 4096):
                output += chunk
        except OSError:  # EIO: the other side is closed
            pass
        process.wait(100)
    os.close(master)
    return output.decode()


def test_progress_bar_and_truncated_names_on_a_terminal(model_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a-name-that-is-much-too-long-for-half-of-a-line"
    folder.mkdir()
    for seed in range(3):
        (folder / f"{seed}.jpg").write_bytes(encoded(noise(seed)))
    output = on_a_terminal(folder.name, "--top-k", 1, "--model", model_file, cwd=tmp_path, columns=40)
    assert "] 0 of 3" in output
    assert "[##############################] 3 of 3, 0 s left" in output
    assert output.endswith("\r\x1b[K"), "the progress bar is erased at the end"
    lines = [line.rpartition("\x1b[K")[2] for line in output.split("\r\n")]
    assert [
        line.startswith("…") and line[:20].endswith(f"{n}.jpg") for n, line in enumerate(lines[:3])
    ] == [True] * 3

    exclusive = on_a_terminal(folder / "0.jpg", "--model", model_file, cwd=tmp_path, columns=400)
    assert "[" not in exclusive, "no bar for one picture"
    assert str(folder / "0.jpg") in exclusive


def test_arguments_are_resolved_to_files(model_file: Path, photos: Path) -> None:
    def files(*arguments: str) -> list[str]:
        done = predict(*arguments, "--format", "jsonl", "--model", model_file, cwd=photos)
        return [f"{r['file']} {r.get('detail', '')}".strip() for r in records(done)]

    assert files("more", "**/*.png", "c.jpg") == [
        "more/deep/d.png",
        "more/without-suffix",
        "more/deep/d.png",
        "c.jpg",
    ]
    (photos / "empty").mkdir()
    (photos / "[1].jpg").write_bytes(encoded(noise(1)))
    (photos / "0.jpg").write_bytes(b"")
    long = "https://example.org/" + 300 * "x" + ".jpg"
    assert files("https://example.org/a b.jpg?x=1", long, "file:///c.jpg", "c.jpg") == [
        "https://example.org/a b.jpg?x=1 URLs are not fetched; "
        "download it first: curl -LO 'https://example.org/a b.jpg?x=1'",
        f"{long} URLs are not fetched; download it first: curl -LO {long}",
        "file:///c.jpg URLs are not fetched; name a file",
        "c.jpg",
    ]
    assert files("", "[1].jpg", "gone.jpg", "*.gif", "empty", "0.jpg", "notes.txt") == [
        "the name is empty; . is the current folder",
        "[1].jpg",
        "gone.jpg No such file or directory",
        "*.gif no file matches",
        "empty the folder has no pictures",
        "0.jpg the image is empty; send the bytes of one image file",
        "notes.txt not an image in a known format; send JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF",
    ]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    for name in (
        "photos/daisy/1.jpg",
        "photos/tulip/1.jpg",
        "elsewhere/deep/2.jpg",
        "elsewhere/.hidden/3.jpg",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    photos = tmp_path / "photos"
    (photos / "linked").symlink_to("../elsewhere")
    (photos / "again").symlink_to("daisy")
    for name in ("daisy/up", "daisy/top", "tulip/up", "tulip/top"):  # two per folder: 2^40 paths
        (photos / name).symlink_to("../..")
    (photos / "daisy/latest.jpg").symlink_to("1.jpg")
    (photos / "circle").symlink_to("circle")
    (photos / "lost").symlink_to("nowhere")

    def names(pattern: str) -> list[str]:
        return [
            str(Path(file.name).relative_to(tmp_path)) for file in find_files([str(tmp_path / pattern)])
        ]

    daisies = ["photos/daisy/1.jpg", "photos/daisy/latest.jpg"]
    everything = ["elsewhere/deep/2.jpg", *daisies, "photos/tulip/1.jpg"]
    assert sorted(str(Path(file.name).resolve()) for file in find_files([str(photos)])) == sorted(
        str((tmp_path / name).resolve()) for name in everything
    )
    for pattern in ("**", "**/*.jpg", "photos/../**/[12l]*.jpg"):
        assert [name.replace("photos/../", "") for name in names(pattern)] == everything
    assert names("photos/daisy/*.jpg") == daisies
    assert names("*/linked/**/*.jpg") == ["photos/linked/deep/2.jpg"]
    assert len({file.location for file in find_files([str(photos / "**/*.jpg")])}) == 4


def test_standard_input(model_file: Path, photos: Path) -> None:
    done = predict(
        "-", "a.jpg", "--format", "jsonl", "--model", model_file, cwd=photos, data=encoded(noise(1))
    )
    piped, file = records(done)
    assert (piped.pop("file"), file.pop("file"), done.returncode) == ("-", "a.jpg", 0)
    assert piped["image"] == file["image"]
    assert [p["label"] for p in piped["predictions"]] == [p["label"] for p in file["predictions"]]


def test_rows_are_written_as_soon_as_ready_and_in_order(model_file: Path, photos: Path) -> None:
    os.mkfifo(photos / "late")
    command = [
        *COMMAND,
        "a.jpg",
        "late",
        "c.jpg",
        "--format",
        "csv",
        "--top-k",
        "1",
        "--model",
        str(model_file),
    ]
    with subprocess.Popen(command, cwd=photos, stdout=subprocess.PIPE, text=True, env=environ()) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("file,")
        assert process.stdout.readline().startswith("a.jpg,")
        (photos / "late").write_bytes(encoded(noise(9)))
        assert [line.partition(",")[0] for line in process.stdout] == ["late", "c.jpg"]
        assert process.wait(60) == 0


def test_ctrl_c_ends_the_command_while_it_waits_for_a_pipe(model_file: Path, photos: Path) -> None:
    os.mkfifo(photos / "late")
    command = [*COMMAND, "a.jpg", "late", "--model", str(model_file)]
    with subprocess.Popen(command, cwd=photos, stdout=subprocess.PIPE, text=True, env=environ()) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("a.jpg")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == -signal.SIGINT


def test_closed_pipe_is_not_an_error(model_file: Path, photos: Path) -> None:
    command = f"{' '.join(COMMAND)} . . . . --format csv --model {model_file} | head -n 1"
    done = subprocess.run(
        ["bash", "-c", command], cwd=photos, env=environ(), capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("file,")
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_limits_of_the_settings_apply(model_file: Path, photos: Path) -> None:
    arguments = ("a.jpg", "--format", "jsonl", "--model", model_file)
    (pixels,) = records(predict(*arguments, cwd=photos, MAX_PIXELS=1000))
    (size,) = records(predict(*arguments, cwd=photos, MAX_BODY_BYTES=1000))
    assert (pixels["code"], size["code"]) == ("too_large", "too_large")
    assert refused(predict("a.jpg", cwd=photos, MAX_PIXELS="x"))[0] == 2


def test_nan_is_an_error_of_that_picture_only(fragile_model: Path, tmp_path: Path) -> None:
    (tmp_path / "dark.png").write_bytes(plain(10))
    (tmp_path / "bright.png").write_bytes(plain(250))
    done = predict(".", "--format", "jsonl", "--model", fragile_model, cwd=tmp_path, MAX_BATCH=1)
    bright, dark = records(done)
    assert (bright["code"], dark["predictions"][0]["label"], done.returncode) == ("internal", "dark", 1)


def test_model_by_name_or_file(model_file: Path, fragile_model: Path, photos: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    (models / "rose/7").mkdir(parents=True)
    for name in ("rose.onnx", "rose/7/model.onnx"):
        (models / name).write_bytes(model_file.read_bytes())

    (only,) = records(predict("a.jpg", "--format", "jsonl", cwd=photos, MODELS=models))
    assert (only["model"]["name"], only["model"]["version"]) == ("rose", 7)
    (models / "other.onnx").write_bytes(fragile_model.read_bytes())
    (chosen,) = records(predict("a.jpg", "--model", "rose", "--format", "jsonl", cwd=photos, MODELS=models))
    assert chosen["model"] == only["model"]
    assert refused(predict("a.jpg", cwd=photos, MODELS=models)) == (
        2,
        "error: name one of the models with --model: other, rose\n",
    )
    code, line = refused(predict("a.jpg", "--model", "tulip", cwd=photos, MODELS=models))
    assert (code, line.startswith("error: there is no model tulip in ")) == (2, True)
    assert refused(predict("a.jpg", "--model", "gone.onnx", cwd=photos)) == (
        2,
        "error: there is no model file gone.onnx\n",
    )
    line = refused(predict("a.jpg", "--model", f"{models}/", cwd=photos))[1]
    assert "models is a folder, not a regular file; MODEL takes a file, MODELS a folder" in line
    (photos / "best.pt").write_bytes(b"\x80\x02")
    assert "best.pt is a Python pickle" in refused(predict("a.jpg", "--model", "best.pt", cwd=photos))[1]
    (models / "cut.onnx").write_bytes(model_file.read_bytes()[:1000])
    code, line = refused(predict("a.jpg", "--model", models / "cut.onnx", cwd=photos))
    assert (code, "cut.onnx is cut off or damaged" in line) == (1, True)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--format", "xml", "a"),
        ("a", "--crops", "2"),
        ("a", "--top-k", "0"),
        ("a", "--server", "localhost"),
    ],
)
def test_invalid_arguments_print_the_usage(arguments: tuple[str, ...]) -> None:
    done = predict(*arguments)
    assert (done.returncode, done.stdout, done.stderr[:6]) == (2, "", "usage:")


@pytest.mark.parametrize("typed", ["", "scripts/predict"])
def test_usage_names_the_typed_command(typed: str) -> None:
    done = predict("--help", ALEXNET_COMMAND=typed)
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: {typed or 'python -m service predict'} [-h]")
    assert "environment" in done.stdout

"""Test the start and end of `python -m service`: errors in one line, and exit codes."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import pytest

from contract.manifest import METADATA_KEY
from tests.support.checkout import ROOT, free_port, wait_until_healthy
from tests.support.serving.server import COMMAND, environ, refused, serving

NO_GPU = pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="a GPU has tests of its own")


def changed(model: Path, target: Path, key: str, value: str) -> Path:
    """Write the model with its manifest replaced by a metadata entry `key`."""
    loaded = onnx.load(model)
    for entry in loaded.metadata_props:
        if entry.key == METADATA_KEY:
            entry.key, entry.value = key, value
    onnx.save(loaded, target)
    return target


def test_a_bad_setting_exits_with_2() -> None:
    assert refused(port="x") == (2, "error: PORT is 'x'; it must be a whole number\n")


def test_a_bad_key_file_exits_with_2_and_is_not_quoted(model_file: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    assert refused(model=model_file, api_keys_file=keys)[0] == 2
    keys.write_text("secret\n")
    code, line = refused(model=model_file, api_keys_file=keys)
    assert (code, "secret" in line) == (2, False)
    keys.write_text("\n# none\n")
    assert "no key" in refused(model=model_file, api_keys_file=keys)[1]


def test_unusable_models_are_refused(model_file: Path, tmp_path: Path) -> None:
    assert "no model file gone.onnx" in refused(model=tmp_path / "gone.onnx")[1]

    cut = tmp_path / "cut.onnx"
    cut.write_bytes(model_file.read_bytes()[:1000])
    assert refused(model=cut)[0] == 1

    assert (
        "without a manifest" in refused(model=changed(model_file, tmp_path / "bare.onnx", "other", ""))[1]
    )
    assert "not JSON" in refused(model=changed(model_file, tmp_path / "odd.onnx", METADATA_KEY, "{"))[1]


def test_a_model_needs_as_many_outputs_as_classes(model_file: Path, tmp_path: Path) -> None:
    text = next(e.value for e in onnx.load(model_file).metadata_props if e.key == METADATA_KEY)
    fewer = text.replace('  "gorse"\n', '  "gorse", "heather"\n')
    assert fewer != text
    line = refused(model=changed(model_file, tmp_path / "fewer.onnx", METADATA_KEY, fewer))[1]
    assert "7 outputs for 8 classes" in line


@NO_GPU
def test_cuda_is_refused_without_a_gpu(model_file: Path) -> None:
    code, line = refused(model=model_file, device="cuda")
    assert code == 1
    assert "DEVICE=cuda, but this ONNX Runtime has no CUDA provider" in line


@NO_GPU
def test_auto_without_a_gpu_serves_on_the_cpu_without_a_warning(model_file: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "log", model_file, device="auto") as server:
        assert server.client.get("/health").json()["provider"] == "CPUExecutionProvider"
        assert server.log == ""


def test_two_onnxruntime_wheels_in_one_environment_are_refused(model_file: Path, tmp_path: Path) -> None:
    """The pair is only recognised by the second distribution's metadata, written here as by pip."""
    info = tmp_path / "onnxruntime_gpu-1.31.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.31.1\n")
    code, line = refused(model=model_file, pythonpath=f"{ROOT}{os.pathsep}{tmp_path}")
    assert code == 1
    assert "uninstall both" in line


def test_models_are_garbage_collected_and_modules_are_frozen(model_file: Path) -> None:
    """A full pass over all modules or requests would delay every request; replaced models must be freed."""
    script = """
import gc
from service.models.serving import ServingModel
from service.server.run import serve
from service.server.listener import bind_socket
from service.settings import Settings

def ready(names, provider, path):
    tracked = gc.get_objects()
    print(any(x is serve for x in tracked), any(type(x) is ServingModel for x in tracked))
    before = gc.get_stats()[2]["collections"]
    full_load = [[] for _object in range(400_000)]
    print(gc.get_stats()[2]["collections"] - before)
    raise SystemExit

serve(Settings.from_environ(), bind_socket("127.0.0.1", 0), ready)
"""
    env = os.environ | {"MODEL": str(model_file)}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True", "0"], done.stderr


@contextmanager
def loading(model: Path, folder: Path, **settings: object) -> Iterator[subprocess.Popen[str]]:
    """Start a service, and yield it while it loads the first of six models; stderr goes to stdout."""
    for version in range(1, 7):
        (folder / f"tiny/{version}").mkdir(parents=True)
        shutil.copy(model, folder / f"tiny/{version}/model.onnx")
    with subprocess.Popen(
        COMMAND,
        env=environ(models=folder, log_format="json", **settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            assert any("loading and warming" in line for line in process.stdout)
            yield process
        finally:
            process.kill()


def test_sighup_while_models_are_loaded_does_not_end_the_service(model_file: Path, tmp_path: Path) -> None:
    with loading(model_file, tmp_path) as process:
        process.send_signal(signal.SIGHUP)
        assert process.stdout is not None
        assert any(" on http://" in line for line in process.stdout)
        process.terminate()
        assert process.wait(20) == 0


def test_a_stop_while_workers_load_their_models_exits_with_0(model_file: Path, tmp_path: Path) -> None:
    with loading(model_file, tmp_path, workers=2, threads=1) as process:
        process.terminate()
        rest, _ = process.communicate(
            timeout=20
        )  # ends once the workers, which hold the pipe open, have ended
        assert process.returncode == 0
        assert " on http://" not in rest


def test_a_stop_while_models_are_loaded_exits_with_0(model_file: Path, tmp_path: Path) -> None:
    with loading(model_file, tmp_path) as process:
        for _signal in range(3):
            process.terminate()
        assert process.wait(20) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_port_taken_while_models_are_loaded_is_an_error(
    model_file: Path, tmp_path: Path, workers: int
) -> None:
    """Both may bind the port as long as none listens on it."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        with loading(model_file, tmp_path, port=port, workers=workers, threads=1) as process:
            other.listen()
            rest, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"error: cannot listen on 127.0.0.1:{port}: Address already in use" in rest
    assert "Traceback" not in rest


@pytest.mark.parametrize(
    ("closed", "log_format"),
    [(">&-", "json"), ("2>&-", "text"), ("<&- >&- 2>&-", "text"), ("<&- >&- 2>&-", "json")],
)
def test_closed_standard_streams(model_file: Path, closed: str, log_format: str) -> None:
    port = free_port()
    with subprocess.Popen(
        ["bash", "-c", f'exec "$@" {closed}', "-", *COMMAND],
        env=environ(model=model_file, port=port, log_format=log_format),
    ) as process:
        wait_until_healthy(process, port)
        process.terminate()
        assert process.wait(20) == 0


def test_a_closed_pipe_on_stdout_does_not_matter(model_file: Path, tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    port = free_port()
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(
            COMMAND, env=environ(model=model_file, port=port), stdout=write_end, stderr=log
        ) as process,
    ):
        os.close(write_end)
        wait_until_healthy(process, port)
        process.terminate()
        assert process.wait(20) == 0
    assert (tmp_path / "log").read_text() == ""

"""Test that the settings choose the decoder, and that DECODE=gpu is refused where it cannot be."""

import logging
from typing import Any

import pytest

from service.errors import ModelError
from service.imaging.decoder import ThreadDecoder
from service.imaging.process_decoder import ProcessDecoder
from service.inference.decoders import open_decoder
from service.models.cuda import PROVIDER
from service.models.session import CPU
from service.settings import Settings, SettingsError


def missing(name: str) -> Any:
    raise ModuleNotFoundError(name)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYNVIMGCODEC_VERBOSITY", "0")  # restored after each test


def test_threads_are_the_default_and_processes_a_setting() -> None:
    assert isinstance(open_decoder(Settings(), CPU, 1), ThreadDecoder)
    assert isinstance(open_decoder(Settings(), PROVIDER, 1), ThreadDecoder)
    assert isinstance(open_decoder(Settings(decode_processes=1), PROVIDER, 1), ProcessDecoder)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"DEVICE": "cpu"}, "DECODE is 'gpu', but DEVICE is cpu: use DEVICE=cuda, or DECODE=cpu"),
        ({"DECODE_PROCESSES": "2"}, "DECODE is 'gpu', which decodes in no process: use DECODE_PROCESSES=0"),
    ],
)
def test_impossible_settings_are_refused_with_the_remedy(variables: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.from_environ({"DECODE": "gpu"} | variables)
    assert str(raised.value) == message


def test_missing_package_is_refused_with_the_remedy() -> None:
    with pytest.raises(SettingsError, match="the extra gpu-decode"):
        open_decoder(Settings(decode="gpu"), PROVIDER, 1, missing)


def test_models_on_the_cpu_are_a_warning_where_the_device_is_chosen(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        decoder = open_decoder(Settings(decode="gpu"), CPU, 1, missing)
    assert isinstance(decoder, ThreadDecoder)
    assert "DECODE=gpu: images are decoded on the CPU" in caplog.text


def test_gpu_without_its_libraries_is_an_error_of_the_model() -> None:
    with pytest.raises(ModelError, match=r"DECODE=gpu, but .*DECODE=cpu"):
        open_decoder(Settings(decode="gpu"), PROVIDER, 1, lambda _name: object())

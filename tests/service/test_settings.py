"""Settings from the environment: conversion, and one sentence for each invalid value."""

import re
from pathlib import Path

import pytest

from service.settings import Settings, SettingsError


def test_an_empty_variable_counts_as_unset() -> None:
    assert Settings.from_environ({"PORT": "", "HOST": ""}) == Settings()


def test_values_are_converted() -> None:
    settings = Settings.from_environ(
        {"PORT": "1", "MODEL": "x.onnx", "MAX_WAIT_MS": "2.5", "DEVICE": "cpu", "API_KEYS_FILE": "k"}
        | {"TF32": "1", "PIN_CORES": "0"}
    )
    assert (settings.tf32, settings.pin_cores) == (True, False)
    assert (settings.port, settings.max_wait_ms, settings.device) == (1, 2.5, "cpu")
    assert (settings.model, settings.api_keys_file) == (Path("x.onnx"), Path("k"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"),
        ("PORT", "65536"),
        ("PORT", "80.5"),
        ("PORT", "80.0"),
        ("MAX_BATCH", "0"),
        ("MAX_QUEUE", "-1"),
        ("MAX_WAIT_MS", "soon"),
        ("MAX_WAIT_MS", "nan"),
        ("MAX_WAIT_MS", "inf"),
        ("DRAIN_DELAY_S", "inf"),
        ("DRAIN_TIMEOUT_S", "99999999999"),
        ("THREADS", "20000"),
        ("DEVICE", "gpu"),
        ("DEVICE", "CUDA"),
        ("TF32", "2"),
        ("WATCH_MODEL", "yes"),
    ],
)
def test_a_bad_value_names_the_variable(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=rf"^{name} is '?{value}'?; "):
        Settings.from_environ({name: value})


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("PORT", "http", "PORT is 'http'; it must be a whole number"),
        ("PORT", "65536", "PORT is 65536; it must be 0 to 65535"),
        ("PORT", "\udcff", "PORT is '\\udcff'; it must be a whole number"),
        ("MAX_BATCH", "0", "MAX_BATCH is 0; it must be 1 or more"),
        ("WORKERS", "-2", "WORKERS is '-2'; it must be auto or a whole number, 1 or more"),
        ("WORKERS", "all", "WORKERS is 'all'; it must be auto or a whole number, 1 or more"),
        ("MAX_WAIT_MS", "soon", "MAX_WAIT_MS is 'soon'; it must be a number"),
        ("DEVICE", "gpu", "DEVICE is 'gpu'; use auto, cpu or cuda"),
        ("TF32", "2", "TF32 is '2'; it must be 0 or 1"),
    ],
)
def test_a_bad_value_is_explained_in_one_sentence(name: str, value: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.from_environ({name: value})
    assert str(raised.value) == sentence


@pytest.mark.parametrize(
    "host", ["http://127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:80", "localhost:80", "a b", "me@home"]
)
def test_a_host_is_an_address_or_a_name_and_nothing_more(host: str) -> None:
    with pytest.raises(SettingsError, match=rf"^HOST is '{re.escape(host)}'; it must be .* PORT$"):
        Settings.from_environ({"HOST": host})


@pytest.mark.parametrize("host", ["::", "::1", "fe80::1%eth0", "10.0.0.1", "photos.example", "a_b"])
def test_every_address_and_name_is_a_host(host: str) -> None:
    assert Settings.from_environ({"HOST": host}).host == host


def test_max_queue_bytes_holds_at_least_one_body() -> None:
    with pytest.raises(SettingsError, match="MAX_QUEUE_BYTES is 2000; it must be at least MAX_BODY_BYTES"):
        Settings.from_environ({"MAX_QUEUE_BYTES": "2000", "MAX_BODY_BYTES": "3000"})
    with pytest.raises(SettingsError, match="MAX_QUEUE_BYTES is 500000000; it must be at least"):
        Settings.from_environ({"MAX_BODY_BYTES": "500000001"})


def test_processes_that_decode_are_refused_where_they_cannot_be_limited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert Settings.from_environ({"DECODE_PROCESSES": "0"}) == Settings()
    with pytest.raises(SettingsError, match="DECODE_PROCESSES is 2; only Linux has them: use 0"):
        Settings.from_environ({"DECODE_PROCESSES": "2"})

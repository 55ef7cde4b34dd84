"""The model repository extension of the Open Inference Protocol: loading and unloading by admins."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
from tritonclient.utils import InferenceServerException  # type: ignore[import-untyped]

from tests.support.serving.server import serving
from tests.support.serving.triton import check, client_of, images, pixels, refused


@pytest.fixture
def repository(model_file: Path, tmp_path: Path) -> Path:
    """Create a folder with `one` as a file, `two` in versions 1 and 2, and a file that is no model."""
    folder = tmp_path / "models"
    for name in ("one.onnx", "two/1/model.onnx", "two/2/model.onnx"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(model_file, folder / name)
    (folder / "broken.onnx").write_bytes(b"no model")
    return folder


def key_file(path: Path, *keys: str) -> Path:
    path.write_text("".join(f"{hashlib.sha256(key.encode()).hexdigest()}\n" for key in keys))
    return path


def states(client: Any) -> list[tuple[str, str, str]]:
    entries = client.get_model_repository_index(headers={"Authorization": "Bearer user"})
    return [(entry["name"], entry["version"], entry["state"]) for entry in entries]


def test_admins_load_and_unload_models(repository: Path, model_file: Path, tmp_path: Path) -> None:
    settings = {
        "MODEL": "",
        "MODELS": repository,
        "api_keys_file": key_file(tmp_path / "keys", "user"),
        "admin_keys_file": key_file(tmp_path / "admins", "admin"),
    }
    user, admin = ({"Authorization": f"Bearer {key}"} for key in ("user", "admin"))
    batch = images(pixels(1))
    with serving(tmp_path / "log", model_file, **settings) as server, client_of(server) as client:
        assert client.is_server_ready(), "health needs no key"
        check(server.client.get("/v2"), 401, "Authorization: Bearer KEY")
        assert refused(client, [batch], model="one")[0] == "401"

        everything = [("one", "3", "READY"), ("two", "2", "READY"), ("two", "1", "READY")]
        assert states(client) == [("broken", "", "UNAVAILABLE"), *everything]
        index = client.get_model_repository_index(headers=user)
        assert "broken.onnx" in index[0]["reason"]
        assert index[1]["reason"] == ""
        ready = server.client.post("/v2/repository/index", json={"ready": True}, headers=user).json()
        assert [entry["name"] for entry in ready] == ["one", "two", "two"]
        assert client.get_model_metadata("two", headers=user)["versions"] == ["2", "1"]
        for version, expected in (("", "2"), ("2", "2"), ("1", "1")):
            result = client.infer("two", [batch], model_version=version, headers=dict(user))
            assert result.get_response()["model_version"] == expected
        status, message = refused(client, [batch], model="broken", headers=dict(user))
        assert status == "503"
        assert "broken.onnx" in message

        with pytest.raises(InferenceServerException, match="admin's key") as raised:
            client.unload_model("one", headers=user)
        assert raised.value.status() == "403"
        client.unload_model("two", headers=admin)
        assert not client.is_model_ready("two", headers=user)
        assert refused(client, [batch], model="two", headers=dict(user))[0] == "503"
        assert client.is_model_ready("one", headers=user)
        client.load_model("two", headers=admin)
        assert client.is_model_ready("two", "1", headers=user)
        assert client.infer("two", [batch], headers=dict(user)).get_response()["model_version"] == "2"

        shutil.copy(model_file, repository / "late.onnx")
        assert not client.is_model_ready("late", headers=user)
        client.load_model("late", headers=admin)
        assert states(client)[1] == ("late", "3", "READY")

        with pytest.raises(InferenceServerException, match=r"broken\.onnx") as raised:
            client.load_model("broken", headers=admin)
        assert raised.value.status() == "400"
        with pytest.raises(InferenceServerException, match="missing") as raised:
            client.load_model("missing", headers=admin)
        assert raised.value.status() == "404"
        with pytest.raises(InferenceServerException, match=r"parameters\.config is not supported"):
            client.load_model("one", headers=admin, config="{}")
        for body in (b"[]", b'{"ready": 1}'):
            check(server.client.post("/v2/repository/index", content=body, headers=user), 400)

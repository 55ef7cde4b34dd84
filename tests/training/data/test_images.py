"""Reading pictures: their order and pixels, skipped files, memory limits, and exact statistics."""

from pathlib import Path

import numpy as np
import pytest
import torch

from contract.picture import decode
from contract.preprocess import square
from contract.recipe import DEFAULT_RECIPE
from tests.support.drawing.pictures import draw_classes, encode, orientation_tag, scene, stored
from training.config import Config
from training.data.folders import Sample, find_trees
from training.data.images import channel_statistics, digest_of, load_pictures, read_digests
from training.data.prepared import load_dataset
from training.errors import DataError

COLOURS = {"iris": (60, 40, 200), "rose": (200, 30, 50)}


def test_pictures_are_scaled_by_the_recipe_in_order(tmp_path: Path) -> None:
    files = {"a": stored(scene(90, 60), 6), "b": scene(50, 70, seed=1)}
    samples = []
    for index, (name, image) in enumerate(files.items()):
        path = tmp_path / f"{name}.jpg"
        path.write_bytes(encode(image, "JPEG", exif=orientation_tag(6 if name == "a" else 1)))
        samples.append(Sample(path, index, name))
    split, reading = load_pictures(samples, DEFAULT_RECIPE, "test")
    assert split.labels.tolist() == [0, 1]
    assert split.pixels.shape == (2, 256, 256, 3)
    assert reading.skipped == ()
    for sample, pixels in zip(samples, split.squares(torch.arange(2)), strict=True):
        expected = square(decode(sample.path.read_bytes(), DEFAULT_RECIPE, 10**6), DEFAULT_RECIPE)
        assert np.array_equal(pixels.numpy(), expected)
    assert split.digests.tolist() == [digest_of(sample.path.read_bytes()) for sample in samples]
    assert torch.equal(read_digests(samples, "test").digests, split.digests)
    part = split.part(slice(1, None))
    assert (part.names, part.labels.tolist(), len(part)) == (("b",), [1], 1)
    assert torch.equal(torch.cat(list(part.batches(5))), split.pixels[1:])


def test_unreadable_files_are_skipped_and_listed(tmp_path: Path) -> None:
    draw_classes(tmp_path, COLOURS, 3, size=16)
    bad = {"cut.png": (tmp_path / "iris" / "000.png").read_bytes()[:60], "empty.jpg": b"", "gone.jpg": None}
    for name, content in bad.items():
        path = tmp_path / "iris" / name
        path.symlink_to("nowhere") if content is None else path.write_bytes(content)
    samples = find_trees(tmp_path)[1][0].samples
    split, reading = load_pictures(samples, DEFAULT_RECIPE, "train")
    assert len(samples) == 9
    assert split.labels.tolist() == [0] * 3 + [1] * 3
    assert [line.split(":")[0] for line in reading.skipped] == [
        str(tmp_path / "iris" / name) for name in bad
    ]
    assert "corrupt or truncated" in reading.skipped[0]
    # The others keep their labels: every square has its class's colour.
    for pixels, label in zip(split.pixels, split.labels, strict=True):
        colour = torch.tensor([*COLOURS.values()][int(label)])
        assert (pixels.float().mean((0, 1)) - colour).abs().max() < 40


def test_sets_larger_than_memory_are_refused_before_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [Sample(tmp_path / "nowhere.jpg", 0, "a/nowhere.jpg")] * 10_000_000
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(
        DataError, match=r"take 1966\.1 GB of memory in each of 2 processes, and .*`prepare`"
    ):
        load_pictures(samples, DEFAULT_RECIPE, "test")


def test_all_classes_with_too_few_readable_pictures_are_named(tmp_path: Path) -> None:
    draw_classes(tmp_path, COLOURS | {"aster": (1, 2, 3), "tulip": (9, 9, 9)}, 3, size=16)
    (tmp_path / "none").mkdir()
    for number in range(5):
        (tmp_path / "aster" / f"{number:03d}.png.json").write_text("{}")
    for name in ("iris/001.png", "iris/002.png", "rose/000.png", "rose/001.png", "rose/002.png"):
        (tmp_path / name).write_bytes(b"no picture")
    for path in (tmp_path / "tulip").iterdir():
        path.rename(path.with_suffix(".txt")).write_bytes(b"words")
    with pytest.raises(DataError, match="each class needs two pictures that can be read") as raised:
        load_dataset(tmp_path, Config(image_size=64))
    output = str(raised.value)
    assert "class 'iris' has 1 (2 cannot be read, such as " in output
    assert "class 'rose' has 0 (3 cannot be read, such as " in output
    assert "class 'tulip' has 0 (files that are not pictures: 3 .txt)" in output
    assert "class 'none' is empty: add images or remove the folder" in output
    assert "aster" not in output
    train = tmp_path / "divided" / "train"
    draw_classes(train, COLOURS, 1, size=16)
    draw_classes(tmp_path / "divided" / "val", COLOURS, 1, size=16, first=5)
    assert len(load_dataset(tmp_path / "divided", Config(image_size=64)).train) == 2
    (train / "iris" / "000.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="each class needs a picture that can be read; class 'iris' has 0"):
        load_dataset(tmp_path / "divided", Config(image_size=64))


@pytest.mark.parametrize("side", [8, 100])
def test_channel_statistics_are_exact(side: int) -> None:
    """For white scans, the variance is a small difference of two large numbers."""
    draw = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (13, side, side, 3), dtype=torch.uint8, generator=draw)
    noise[..., 1] = noise[..., 0] // 2  # correlated channels
    scans = torch.full((9, side, side, 3), 255, dtype=torch.uint8)
    scans[:, ::7] -= 1
    for squares in (noise, scans):
        mean, covariance = channel_statistics(squares)
        values = squares.reshape(-1, 3).double()
        torch.testing.assert_close(mean, values.mean(0), rtol=1e-14, atol=0)
        expected = (values - values.mean(0)).T @ (values - values.mean(0)) / len(values)
        torch.testing.assert_close(covariance, expected, rtol=1e-11, atol=1e-13)
    part = channel_statistics(noise, torch.tensor([1, 4, 5]))
    assert all(map(torch.equal, part, channel_statistics(noise[[1, 4, 5]])))

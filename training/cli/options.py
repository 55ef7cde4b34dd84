"""Define the commands of `python -m training` with their options, defaults and units."""

import argparse
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import torch

from contract.limits import usable_cores
from training.cli.advice import program
from training.config import CHOICES, Config, option_name
from training.export.graph import PRECISIONS
from training.start.published import URL
from training.trust.fit import UNKNOWN_ABOVE

SHAPE = ("width", "arch", "activation", "lrn", "pooling", "dropout")  # settings of the network
SPLIT = ("image_size", "val_fraction", "seed")


def make_parser(about: str) -> argparse.ArgumentParser:
    """Build the parser of all commands; `about` is the description above them."""
    parser = argparse.ArgumentParser(prog=program(), description=about)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")

    command = commands.add_parser("train", help="train on a folder of images, a folder per class")
    command.add_argument(
        "--data",
        type=Path,
        help="has train/ and val/, or is one tree to split; required (default with --resume: the run's)",
    )
    command.add_argument(
        "--background",
        type=Path,
        metavar="DIR",
        help="pictures of anything but the classes, at any depth: the network learns to be unsure of them "
        "(default: none)",
    )
    command.add_argument(
        "--out",
        type=Path,
        help="run folder, for checkpoints and log (default runs/NAME, as --data is named)",
    )
    command.add_argument(
        "--recipe",
        help="a name in training/recipes or a TOML file (default: chosen for the photographs)",
    )
    command.add_argument(
        "--time",
        type=_seconds,
        help="10m, 90s or 2h: fit the epochs into it (default: chosen for the photographs)",
    )
    command.add_argument(
        "--from",
        "--weights",
        dest="start",
        metavar="base|scratch|RUN|FILE",
        help="what to start from: the base network, nothing, a run, or a file .pt, .onnx or .safetensors; "
        "./base is a folder of that name (default: base for few photographs; with --recipe, scratch)",
    )
    command.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in --out; only --epochs may change, to more (default: --out must be empty)",
    )
    command.add_argument("--classes", type=_count, help="expected number of classes (default: any)")
    command.add_argument("--keep", type=_count, default=2, help="step-N.pt checkpoints to keep (default 2)")
    _device_option(command)
    _workers_option(command)
    _config_options(
        command, tuple(key.name for key in fields(Config)), default="default: chosen; the paper:"
    )

    command = commands.add_parser(
        "prepare", help="scale a folder of images once, for sets larger than memory"
    )
    command.add_argument("--data", type=Path, required=True, help="has train/ and val/, or is split here")
    command.add_argument("--out", type=Path, required=True, help="folder to write; the --data of `train`")
    _workers_option(command)
    _config_options(command, SPLIT)

    command = commands.add_parser("summary", help="print the layers: shapes, parameters, multiply-adds")
    _classes_option(command)
    command.add_argument("--json", action="store_true", help="print JSON (default: a table)")
    _config_options(command, SHAPE)

    command = commands.add_parser("init", help="write a run with an initialised, untrained network")
    command.add_argument("--out", type=Path, required=True, help="run folder to write")
    _classes_option(command)
    _config_options(command, (*SHAPE, "weight_init", "seed"))

    command = commands.add_parser("import", help="turn published weights into a run and a model file")
    command.add_argument(
        "--from", dest="origin", choices=("torchvision",), required=True, help="their origin"
    )
    command.add_argument(
        "source",
        nargs="?",
        default=URL,
        metavar="FILE|URL",
        help=f"a state dict, .pth or .safetensors, fine-tuned ones too (default {URL})",
    )
    command.add_argument(
        "--labels",
        type=Path,
        help="class names, one per line (default ImageNet's for 1000 outputs, else class0, ...)",
    )
    command.add_argument("--out", type=Path, required=True, help="run folder to write")
    command.add_argument("--sha256", help="expected SHA-256 (default for a URL: the published file's)")

    command = commands.add_parser("evaluate", help="measure top-1 and top-5 accuracy of a run")
    command.add_argument("source", type=Path, metavar="RUN", help="run folder or checkpoint")
    command.add_argument(
        "--data", type=Path, required=True, help="what it was trained on, or any folder per class"
    )
    command.add_argument(
        "--ten-crop", action="store_true", help="mean of ten crops, paper section 4.1 (default: the centre)"
    )
    _device_option(command)

    command = commands.add_parser("export", help="write one verified ONNX file with its manifest")
    command.add_argument("source", type=Path, metavar="RUN", help="run folder or checkpoint")
    command.add_argument("--out", type=Path, required=True, help="the file to write, NAME.onnx")
    command.add_argument(
        "--data",
        type=Path,
        help="photographs to measure the file on; fp16 and int8 need them (default: no measurement)",
    )
    _trust_options(command)
    command.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="fp16 suits GPUs, int8 CPUs (default fp32)",
    )
    command.add_argument(
        "--version", type=_whole, default=1, help="version of the model, a whole number (default 1)"
    )

    command = commands.add_parser("inspect", help="print the manifest of a model file")
    command.add_argument("file", type=Path, metavar="FILE", help="a model file, NAME.onnx")
    command.add_argument(
        "--json", action="store_true", help="print the manifest as JSON (default: as text)"
    )

    command = commands.add_parser(
        "verify", help="recompute a model file's parity and accuracy; exit code 1 if worse"
    )
    command.add_argument("file", type=Path, metavar="FILE", help="a model file, NAME.onnx")
    command.add_argument(
        "--data", type=Path, required=True, help="the photographs that its accuracy was measured on"
    )
    _unfamiliar_option(command, "a folder that `export` measured unfamiliar pictures on")

    command = commands.add_parser("report", help="write one HTML page: curves, kernels, mistakes")
    command.add_argument("source", type=Path, metavar="RUN", help="run folder or checkpoint")
    command.add_argument("--data", type=Path, help="the photographs (default: where they were in training)")
    _trust_options(command)

    command = commands.add_parser("base", help="pre-train the base network on sets of small pictures")
    command.add_argument(
        "--data", type=Path, action="append", required=True, help="has train/ and val/; may be given again"
    )
    command.add_argument(
        "--batches", type=_count, nargs="+", default=[384, 128], metavar="N",
        help="pictures of each --data in a step (default 384 128)",
    )  # fmt: skip
    command.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    command.add_argument(
        "--from", dest="start", metavar="RUN|FILE", help="a network as wide or wider (default: none)"
    )
    command.add_argument("--width", type=float, default=1.0, help="factor on every layer (default 1)")
    command.add_argument("--epochs", type=_count, default=43, help="of the first --data (default 43)")
    command.add_argument("--seed", type=_whole, default=0, help="of weights and order (default 0)")
    _device_option(command)

    command = commands.add_parser(
        "figure1", help="repeat the paper's Figure 1: ReLU against tanh on CIFAR-10"
    )
    command.add_argument("--data", type=Path, required=True, help="folder or zip with train/CLASS/IMAGE")
    command.add_argument("--out", type=Path, required=True, help="folder for figure1.svg and figure1.json")
    command.add_argument(
        "--epochs", type=_whole, default=40, help="at most, per learning rate (default 40)"
    )
    command.add_argument("--seed", type=_whole, default=0, help="of weights and order (default 0)")
    return parser


def _trust_options(command: argparse.ArgumentParser) -> None:
    """Add the options about what is measured and compared to tell unfamiliar images apart."""
    command.add_argument(
        "--background",
        type=Path,
        metavar="DIR",
        help="pictures of anything but the classes, which the file compares images with "
        "(default: those of the training)",
    )
    _unfamiliar_option(command, "pictures of anything but the classes, to measure how many are noticed")
    command.add_argument(
        "--unknown-above",
        type=_share,
        default=UNKNOWN_ABOVE,
        metavar="SHARE",
        help="unfamiliarity above which an image is unknown, 0 to 1 "
        f"(default {UNKNOWN_ABOVE}: 5 %% of photographs like the held-out ones)",
    )


def _unfamiliar_option(command: argparse.ArgumentParser, text: str) -> None:
    command.add_argument(
        "--unfamiliar",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help=f"{text}; may be given again (default: none)",
    )


def _config_options(
    command: argparse.ArgumentParser, names: tuple[str, ...], default: str = "default"
) -> None:
    """Add the options of the settings `names`; `default` is put before their default values."""
    for key in fields(Config):
        if key.name in names:
            _config_option(command, key, default)


def _config_option(command: argparse.ArgumentParser, key: Field[Any], default: str) -> None:
    """Add the option of one setting; a switch gets a --no-KEY as well.

    Values stay text: `configure` converts them, so that it can report all bad values at once.
    """
    flag, text = option_name(key.name), f"{key.metadata['help']} ({default} {key.default})"
    if isinstance(key.default, bool):
        text = f"{key.metadata['help']} ({default} {'on' if key.default else 'off'})"
        command.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
    else:
        choices = CHOICES.get(key.name)
        command.add_argument(flag, metavar=f"{{{','.join(choices)}}}" if choices else None, help=text)


def _device_option(command: argparse.ArgumentParser) -> None:
    default = "cuda" if torch.cuda.is_available() else "cpu"
    command.add_argument(
        "--device", type=_device, default=default, help=f"cpu, cuda, cuda:1, ... (default {default})"
    )


def _classes_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--classes", type=_whole, default=1000, help="outputs, two or more (default 1000)")


def _workers_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--workers", type=_count, help=f"threads that read images (default {usable_cores()})"
    )


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return share


def _seconds(text: str) -> float:
    number, unit = text[:-1], {"s": 1, "m": 60, "h": 3600}.get(text[-1:], 0)
    if not unit or not number.replace(".", "", 1).isdecimal() or not float(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90s, 10m or 2h")
    return float(number) * unit


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)  # raises if there is no such device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise argparse.ArgumentTypeError(f"{name!r} cannot be used here ({reason}); use cpu") from None
    return device

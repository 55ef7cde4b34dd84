"""The commands of `python -m training`, their options, defaults and units."""

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

SHAPE = ("width", "arch", "activation", "lrn", "pooling", "dropout")  # of the network
SPLIT = ("image_size", "val_fraction", "seed")


def make_parser(about: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program(), description=about)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")

    command = commands.add_parser("train", help="train on a folder of images, a folder per class")
    command.add_argument(
        "--data",
        type=Path,
        help="has train/ and val/, or is split here; required (default with --resume: where it was)",
    )
    command.add_argument(
        "--out",
        type=Path,
        help="run folder, for checkpoints and log (default runs/NAME, as --data is named)",
    )
    command.add_argument(
        "--recipe",
        help="a name in training/recipes or a TOML file (default: what suits the photographs)",
    )
    command.add_argument(
        "--time",
        type=_seconds,
        help="10m, 90s or 2h: the epochs are as many as fit (default: as many as suit)",
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
        help="go on with the run in --out; of its settings, --epochs may grow (default: it is to be empty)",
    )
    command.add_argument("--classes", type=_count, help="how many there must be (default any)")
    command.add_argument(
        "--keep", type=_count, default=2, help="checkpoints step-N.pt that stay (default 2)"
    )
    _device_option(command)
    _workers_option(command)
    _config_options(
        command, tuple(key.name for key in fields(Config)), default="default chosen; the paper:"
    )

    command = commands.add_parser("prepare", help="scale a folder of images once, for sets beyond memory")
    command.add_argument("--data", type=Path, required=True, help="has train/ and val/, or is split here")
    command.add_argument("--out", type=Path, required=True, help="folder to write; the --data of `train`")
    _workers_option(command)
    _config_options(command, SPLIT)

    command = commands.add_parser("summary", help="the layers: shapes, parameters, multiply-adds")
    _classes_option(command)
    command.add_argument("--json", action="store_true", help="for programs (default: a table)")
    _config_options(command, SHAPE)

    command = commands.add_parser("init", help="a run with an initialised network and no training")
    command.add_argument("--out", type=Path, required=True, help="run folder to write")
    _classes_option(command)
    _config_options(command, (*SHAPE, "weight_init", "seed"))

    command = commands.add_parser("import", help="published weights become a run and a model file")
    command.add_argument("--from", dest="origin", choices=("torchvision",), required=True, help="whose")
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
        help="the classes' names, one a line (default ImageNet's for 1000 outputs, else class0, ...)",
    )
    command.add_argument("--out", type=Path, required=True, help="run folder to write")
    command.add_argument("--sha256", help="that it must have (default of a URL: the published file's)")

    command = commands.add_parser("evaluate", help="top-1 and top-5 accuracy of a run")
    command.add_argument("source", type=Path, metavar="RUN", help="run folder or checkpoint")
    command.add_argument(
        "--data", type=Path, required=True, help="what it was trained on, or any folder per class"
    )
    command.add_argument(
        "--ten-crop", action="store_true", help="mean of ten crops, paper section 4.1 (default: the centre)"
    )
    _device_option(command)

    command = commands.add_parser("export", help="one proven ONNX file with its manifest inside")
    command.add_argument("source", type=Path, metavar="RUN", help="run folder or checkpoint")
    command.add_argument("--out", type=Path, required=True, help="the file to write, NAME.onnx")
    command.add_argument(
        "--data", type=Path, help="measures the file on it; fp16 and int8 need it (default: no measurement)"
    )
    command.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="fp16 suits GPUs, int8 CPUs (default fp32)",
    )
    command.add_argument("--version", type=_whole, default=1, help="the model's, counts up (default 1)")

    command = commands.add_parser("inspect", help="what a model file says of itself")
    command.add_argument("file", type=Path, metavar="FILE", help="a model file, NAME.onnx")
    command.add_argument(
        "--json", action="store_true", help="the manifest as it stands in the file (default: for people)"
    )

    command = commands.add_parser("verify", help="recompute parity and accuracy; exit code 1 if worse")
    command.add_argument("file", type=Path, metavar="FILE", help="a model file, NAME.onnx")
    command.add_argument("--data", type=Path, required=True, help="what its accuracy was measured on")

    command = commands.add_parser("report", help="one HTML page: curves, kernels, mistakes")
    command.add_argument("source", type=Path, metavar="RUN", help="run folder or checkpoint")
    command.add_argument("--data", type=Path, help="the photographs (default: where they were in training)")

    command = commands.add_parser("base", help="pre-train the base network on sets of small pictures")
    command.add_argument(
        "--data", type=Path, action="append", required=True, help="has train/ and val/; may be given again"
    )
    command.add_argument(
        "--batches", type=_count, nargs="+", default=[384, 128], metavar="N",
        help="pictures of each --data in a step (default 384 128)",
    )  # fmt: skip
    command.add_argument("--out", type=Path, required=True, help="the file .safetensors to write")
    command.add_argument(
        "--from", dest="start", metavar="RUN|FILE", help="a network as wide or wider (default: none)"
    )
    command.add_argument("--width", type=float, default=1.0, help="factor on every layer (default 1)")
    command.add_argument("--epochs", type=_count, default=43, help="of the first --data (default 43)")
    command.add_argument("--seed", type=_whole, default=0, help="of weights and order (default 0)")
    _device_option(command)

    command = commands.add_parser("figure1", help="ReLU against tanh on CIFAR-10, the paper's Figure 1")
    command.add_argument("--data", type=Path, required=True, help="folder or zip with train/CLASS/IMAGE")
    command.add_argument("--out", type=Path, required=True, help="folder for figure1.svg and figure1.json")
    command.add_argument(
        "--epochs", type=_whole, default=40, help="at most, per learning rate (default 40)"
    )
    command.add_argument("--seed", type=_whole, default=0, help="of weights and order (default 0)")
    return parser


def _config_options(
    command: argparse.ArgumentParser, names: tuple[str, ...], default: str = "default"
) -> None:
    """Add the options of those settings; `default` says what the values in parentheses are."""
    for key in fields(Config):
        if key.name in names:
            _config_option(command, key, default)


def _config_option(command: argparse.ArgumentParser, key: Field[Any], default: str) -> None:
    """The option of one setting of Config, as text that `configure` reads, so that it can say all that is
    wrong at once; a switch has a --no-KEY as well.
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
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 up")
    return int(text)


def _seconds(text: str) -> float:
    number, unit = text[:-1], {"s": 1, "m": 60, "h": 3600}.get(text[-1:], 0)
    if not unit or not number.replace(".", "", 1).isdecimal() or not float(number):
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 90s, 10m or 2h")
    return float(number) * unit


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)  # raises where there is none
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise argparse.ArgumentTypeError(f"{name!r} cannot be used here ({reason}); cpu can") from None
    return device

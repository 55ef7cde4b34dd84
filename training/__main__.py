"""python -m training prepare|train|evaluate|export|inspect|verify|figure1

Exit codes: 0 done, 1 failed, 2 usage, 130 interrupted with a checkpoint written.
"""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import torch

from training import checkpoint
from training.checkpoint import CheckpointError
from training.config import CHOICES, Config, ConfigError, load_config
from training.data import DataError, cores
from training.distributed import joined
from training.evaluate import evaluate, torch_classifier, worst_confusions
from training.export import ExportError, export
from training.figure1 import figure1
from training.prepared import load_held_out, prepare
from training.train import Interrupted, train
from training.verify import read_model, verify


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], None] = options.run
    try:
        run(options)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, `head` for one, has had enough; nor can the rest be flushed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (DataError, CheckpointError, ExportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (Interrupted, KeyboardInterrupt) as stop:
        print(str(stop) or "interrupted before there was anything to save", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("train", help="train on a folder of images, a folder per class")
    command.set_defaults(run=_train)
    command.add_argument("--data", type=Path, required=True, help="has train/ and val/, or is split here")
    command.add_argument("--out", type=Path, required=True, help="run folder, for checkpoints and log")
    command.add_argument("--recipe", help="a name in training/recipes or a TOML file")
    command.add_argument("--weights", type=Path, help="run or checkpoint to start from")
    command.add_argument("--resume", action="store_true", help="go on with the run in --out")
    command.add_argument("--classes", type=int, help="an error if DATA has another number of them")
    command.add_argument("--keep", type=int, default=2, help="checkpoints step-N.pt that stay (default 2)")
    _device_option(command)
    _workers_option(command)
    for key in fields(Config):
        _setting(command, key)

    command = commands.add_parser("prepare", help="scale a folder of images once, for sets beyond memory")
    command.set_defaults(run=_prepare)
    command.add_argument("--data", type=Path, required=True, help="has train/ and val/, or is split here")
    command.add_argument("--out", type=Path, required=True, help="folder to write; the --data of `train`")
    _workers_option(command)
    for key in fields(Config):
        if key.name in {"image_size", "val_fraction", "seed"}:
            _setting(command, key)

    command = commands.add_parser("evaluate", help="top-1 and top-5 accuracy of a run")
    command.set_defaults(run=_evaluate)
    command.add_argument("source", type=Path, metavar="RUN", help="run folder or checkpoint")
    command.add_argument(
        "--data", type=Path, required=True, help="what it was trained on, or any folder per class"
    )
    command.add_argument("--ten-crop", action="store_true", help="mean of ten crops, paper section 4.1")
    _device_option(command)

    command = commands.add_parser("export", help="one proven ONNX file with its manifest inside")
    command.set_defaults(run=_export)
    command.add_argument("source", type=Path, metavar="RUN", help="run folder or checkpoint")
    command.add_argument("--out", type=Path, required=True, help="the file NAME.onnx to write")
    command.add_argument("--data", type=Path, help="measures the file on it, for its manifest")
    command.add_argument(
        "--weights", choices=("fp32", "fp16", "int8"), default="fp32", help="how they are stored"
    )
    command.add_argument("--version", type=int, default=1, help="the model's, counts up (default 1)")

    command = commands.add_parser("inspect", help="what a model file says of itself")
    command.set_defaults(run=_inspect)
    command.add_argument("file", type=Path, help="a model file, NAME.onnx")

    command = commands.add_parser("verify", help="recompute parity and accuracy; exit code 1 if worse")
    command.set_defaults(run=_verify)
    command.add_argument("file", type=Path, help="a model file, NAME.onnx")
    command.add_argument("--data", type=Path, required=True, help="what its accuracy was measured on")

    command = commands.add_parser("figure1", help="ReLU against tanh on CIFAR-10, the paper's Figure 1")
    command.set_defaults(run=_figure1)
    command.add_argument("--data", type=Path, required=True, help="folder or zip with train/CLASS/IMAGE")
    command.add_argument("--out", type=Path, required=True, help="folder for figure1.svg and figure1.json")
    command.add_argument("--epochs", type=int, default=40, help="at most, per learning rate (default 40)")
    command.add_argument("--seed", type=int, default=0, help="of weights and order (default 0)")
    return parser


def _setting(command: argparse.ArgumentParser, key: Field[Any]) -> None:
    """The option of one setting of Config; a switch has a --no-KEY as well."""
    flag, text = f"--{key.name.replace('_', '-')}", f"{key.metadata['help']} (default {key.default})"
    if isinstance(key.default, bool):
        text = f"{key.metadata['help']} (default {'on' if key.default else 'off'})"
        command.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
    else:
        command.add_argument(flag, type=type(key.default), choices=CHOICES.get(key.name), help=text)


def _device_option(command: argparse.ArgumentParser) -> None:
    default = "cuda" if torch.cuda.is_available() else "cpu"
    command.add_argument(
        "--device", type=_device, default=default, help=f"cpu, cuda, cuda:1, ... (default {default})"
    )


def _workers_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--workers", type=int, help=f"threads that read images (default {cores()})")


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)  # raises where there is none
    except (RuntimeError, AssertionError) as error:
        raise argparse.ArgumentTypeError(str(error).split("\n")[0]) from None
    return device


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """Those of Config that were given on the command line."""
    values = {f.name: getattr(options, f.name, None) for f in fields(Config)}
    return {key: value for key, value in values.items() if value is not None}


def _train(options: argparse.Namespace) -> None:
    config = load_config(options.recipe, _settings(options))
    with joined(options.device) as ranks:
        train(
            config,
            options.data,
            options.out,
            ranks,
            options.weights,
            options.resume,
            options.workers,
            options.keep,
            options.classes,
        )


def _prepare(options: argparse.Namespace) -> None:
    config = load_config(None, _settings(options))
    dataset = prepare(options.data, options.out, config, options.workers)
    skipped = dataset.train.skipped + dataset.val.skipped
    print(*(f"skipped {problem}" for problem in skipped), sep="\n", end="\n" if skipped else "")
    size = sum(path.stat().st_size for path in options.out.iterdir()) / 1e6
    print(
        f"{options.out}: {len(dataset.train)} images to train on, {len(dataset.val)} to validate on, "
        f"{len(dataset.classes)} classes, {len(skipped)} skipped, {size:.0f} MB"
    )


def _evaluate(options: argparse.Namespace) -> None:
    state = checkpoint.load(checkpoint.find(options.source))
    split = load_held_out(options.data, state.classes, state.provenance, state.config.recipe)
    model = checkpoint.restore_model(state)
    model.to(options.device)
    classify = torch_classifier(model, torch.tensor(state.mean), state.config.std)
    crops = 10 if options.ten_crop else 1
    result = evaluate(classify, split, len(state.classes), state.config.recipe, crops)
    for problem in split.skipped:
        print(f"skipped {problem}")
    print(f"{result.images} images, {result.crops} crop(s) each, {len(split.skipped)} skipped")
    print(f"top-1 {result.top1:.2%}  top-5 {result.top5:.2%}")
    print(f"{'class':24} images  top-1")
    for name, row, right in zip(state.classes, result.confusion, result.confusion.diagonal(), strict=True):
        if row.sum():
            print(f"{name:24} {row.sum():6d}  {right / row.sum():.0%}")
    print(*worst_confusions(result.confusion, state.classes), sep="\n")


def _export(options: argparse.Namespace) -> None:
    manifest = export(options.source, options.out, options.weights, options.version, options.data)
    size = options.out.stat().st_size / 1e6
    print(f"{options.out}: {size:.1f} MB, {len(manifest.classes)} classes, {manifest.weights} weights")
    print(f"largest difference to torch: {manifest.parity['max_difference']:.1e}")
    for m in manifest.metrics:
        print(f"{m.data}, {m.crops} crop(s): top-1 {m.top1:.2%}  top-5 {m.top5:.2%}")


def _inspect(options: argparse.Namespace) -> None:
    _model, manifest = read_model(options.file)
    print(manifest.to_json())


def _verify(options: argparse.Namespace) -> None:
    result = verify(options.file, options.data)
    print(f"largest difference to torch: {result.difference:.1e}")
    for promised, found in zip(result.promised, result.found, strict=True):
        print(
            f"{found.crops} crop(s), {found.images} images: "
            f"top-1 {found.top1:.2%} (said {promised.top1:.2%})  "
            f"top-5 {found.top5:.2%} (said {promised.top5:.2%})"
        )
    if not result.kept:
        raise ExportError(f"{options.file} does not keep its word")


def _figure1(options: argparse.Namespace) -> None:
    print(figure1(options.data, options.out, options.epochs, options.seed))


if __name__ == "__main__":
    sys.exit(main())

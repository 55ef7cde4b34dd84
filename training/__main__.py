"""Train AlexNet, measure it, export it; each command has --help.

Exit codes: 0 done, 1 failed, 2 usage, 130 interrupted with a checkpoint written.
"""

import argparse
import io
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # The imports below take seconds. In a container this is process 1, which signals without a handler do
    # not end. The image starts it with these signals blocked, so that one sent earlier is not lost.
    STOPS = (signal.SIGINT, signal.SIGTERM)
    for number in STOPS:
        signal.signal(number, lambda _number, _frame: os._exit(130))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)

import torch

from contract.interval import with_interval
from contract.limits import usable_cores
from training.cli.launch import launch
from training.cli.options import make_parser
from training.cli.overview import counts, list_skipped, skipped_lines, warnings
from training.config import Config, load_config
from training.data.folders import printable
from training.data.measured_on import KEY as MEASURED_ON
from training.data.measured_on import PLAIN
from training.data.prepared import prepare
from training.errors import ConfigError, ExportError, TrainingError
from training.evaluate import evaluate, torch_classifier, worst_confusions
from training.export.export import export_chosen, model_path
from training.export.trust import NOTES, TrustOptions
from training.export.trust_text import trust_lines
from training.export.verify import manifest_text, read_model, verify
from training.model import AlexNet, layer_table
from training.report.figure1 import figure1
from training.report.report import report
from training.run import checkpoint
from training.run.choice import choose
from training.run.held_out import load_held_out, record_of
from training.run.signals import INTERRUPTED, Interrupted
from training.start.base import make_base
from training.start.init_run import write_untrained
from training.start.published import import_torchvision


def main(arguments: list[str] | None = None) -> int:
    """Run one command of the command line -> its exit code."""
    options = make_parser(__doc__).parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may not be valid UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))  # torch ignores CPU quotas
    # torch's default for convolutions on GPUs is TF32, which reads 10 bits of each factor's mantissa.
    torch.backends.cudnn.allow_tf32 = False
    try:
        COMMANDS[options.command](options)
    except ConfigError as error:
        _say_errors(error)
        return 2
    except BrokenPipeError:  # the reader, such as `head`, closed the pipe; the rest cannot be flushed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (TrainingError, OSError) as error:
        _say_errors(error)
        return 1
    except (Interrupted, KeyboardInterrupt) as stop:
        print(str(stop) or "interrupted before there was anything to save", file=sys.stderr)
        return INTERRUPTED
    return 0


def _say_errors(error: Exception) -> None:
    """Print each line of the message as an error."""
    message = str(error)
    if isinstance(error, OSError) and error.filename is not None:  # str(error) has the errno
        message = f"{printable(Path(os.fsdecode(error.filename)))}: {error.strerror}"
    print(*(f"error: {line}" for line in message.split("\n")), sep="\n", file=sys.stderr)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """Collect the settings of Config that were given on the command line."""
    values = {f.name: getattr(options, f.name, None) for f in fields(Config)}
    return {key: value for key, value in values.items() if value is not None}


def _train(options: argparse.Namespace) -> None:
    launch(options, _settings(options))


def _prepare(options: argparse.Namespace) -> None:
    config = load_config(None, _settings(options))
    dataset = prepare(options.data, options.out, config, options.workers)
    size = sum(path.stat().st_size for path in options.out.iterdir()) / 1e6
    for line in (*skipped_lines(dataset), *(f"warning: {words}" for words in warnings(dataset))):
        print(line)
    print(f"{options.out}: {counts(dataset)}, {size:.0f} MB")


def _summary(options: argparse.Namespace) -> None:
    config = load_config(None, _settings(options))
    rows = layer_table(AlexNet(_class_count(options), config.width, variant=config.variant))
    parameters, multiply_adds = sum(r.parameters for r in rows), sum(r.multiply_adds for r in rows)
    if options.json:
        totals = {"parameters": parameters, "multiply_adds": multiply_adds}
        print(json.dumps({"layers": [asdict(row) for row in rows], **totals}, indent=1))
        return
    print(f"{'layer':8}{'output':>16}{'parameters':>14}{'multiply-adds':>16}")
    for row in rows:
        shape = " x ".join(map(str, row.shape))
        print(f"{row.name:8}{shape:>16}{row.parameters:14,}{row.multiply_adds:16,}")
    print(f"{'total':8}{'':16}{parameters:14,}{multiply_adds:16,}")


def _init(options: argparse.Namespace) -> None:
    state = write_untrained(load_config(None, _settings(options)), _class_count(options), options.out)
    parameters = sum(values.numel() for values in state.model.values())
    print(f"{options.out / 'last.pt'}: {parameters:,} parameters, untrained")


def _import(options: argparse.Namespace) -> None:
    model, manifest = import_torchvision(options.source, options.out, options.sha256, options.labels)
    print(f"{options.out / 'last.pt'}: a run, for `evaluate`, or for `train --from`")
    print(f"{model}: {len(manifest.classes)} classes, ready to be served")
    if not manifest.metrics:
        print("the file's SHA-256 is not that of the published one: no accuracy is claimed for it")


def _class_count(options: argparse.Namespace) -> int:
    if options.classes < 2:
        raise ConfigError(f"--classes is {options.classes}; it must be 2 or more")
    return int(options.classes)


def _evaluate(options: argparse.Namespace) -> None:
    choice = choose(options.source)
    state = choice.state
    measured = load_held_out(options.data, record_of(state))
    model = checkpoint.restore_model(state)
    model.to(options.device)
    classify = torch_classifier(model, state.mean, state.std)
    crops = 10 if options.ten_crop else 1
    result = evaluate(classify, measured.split, state.recipe, crops)
    print(*list_skipped(measured.skipped), sep="\n", end="\n" if measured.skipped else "")
    _print_notes(measured.notes)
    suffix = "" if measured.kind in PLAIN else f", {measured.kind}"
    print(f"{choice.path}: {choice.description}")
    print(f"{result.images} images, {result.crops} crop(s) each, {len(measured.skipped)} skipped{suffix}")
    print(f"top-1 {with_interval(result.top1, result.images)}  top-5 {100 * result.top5:.1f} %{suffix}")
    print(f"{'class':24} images  top-1{suffix}")
    for name, row, correct in zip(
        state.classes, result.confusion, result.confusion.diagonal(), strict=True
    ):
        if row.sum():
            print(f"{name:24} {row.sum():6d}  {correct / row.sum():.0%}{suffix}")
    for line in worst_confusions(result.confusion, state.classes):
        print(f"{line}{suffix}")


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        print(f"note: {note}")


def _export(options: argparse.Namespace) -> None:
    out = model_path(options.out)
    choice = choose(options.source)
    print(f"{choice.path}: {choice.description}")
    trust = _trust_options(options)
    manifest = export_chosen(choice, out, options.precision, options.version, options.data, trust)
    size = out.stat().st_size / 1e6
    print(f"{out}: {size:.1f} MB, {len(manifest.classes)} classes, {manifest.precision}")
    _print_notes(manifest.training.get(MEASURED_ON, {}).get("notes", ()))
    _print_parity(manifest.parity)
    data_name = manifest.metrics[0].data if manifest.metrics else ""
    if acceptance := manifest.parity.get("acceptance"):
        print(
            f"{data_name}: top-1 {acceptance['top1']:.2%}, in fp32 {acceptance['top1_fp32']:.2%}; "
            f"the same answer for {acceptance['agreement']:.2%} of {acceptance['images']} images; "
            f"layers in float32: {', '.join(acceptance['layers_in_float']) or 'none'}"
        )
    for m in manifest.metrics:
        accuracy = f"top-1 {with_interval(m.top1, m.images)}  top-5 {100 * m.top5:.1f} %"
        print(f"{m.data}, {m.crops} crop(s): {accuracy}")
    _print_notes(manifest.training.get(NOTES, ()))
    if manifest.trust is not None:
        print(*trust_lines(manifest.trust), sep="\n")


def _trust_options(options: argparse.Namespace) -> TrustOptions:
    return TrustOptions(options.background, tuple(options.unfamiliar), options.unknown_above)


def _print_parity(parity: dict[str, Any]) -> None:
    for key, name in (
        ("file_torch64", "file to torch in float64"),
        ("file_torch32", "file to torch in float32"),
        ("torch32_torch64", "torch in float32 to float64"),
    ):
        d = parity[key]
        print(
            f"{name:28} largest {d['largest']:.1e}  mean {d['mean']:.1e}  same answer {d['agreement']:.2%}"
        )


def _inspect(options: argparse.Namespace) -> None:
    _model, manifest = read_model(options.file)
    print(manifest.to_json() if options.json else manifest_text(manifest))


def _verify(options: argparse.Namespace) -> None:
    result = verify(options.file, options.data, options.unfamiliar)
    _print_notes(result.notes)
    _print_parity(result.parity.record())
    for expected, measured in zip(result.expected, result.measured, strict=True):
        kind = "" if result.kind in PLAIN else f" ({result.kind})"
        of = f" of {expected.images}" if expected.images != measured.images else ""
        print(
            f"{measured.crops} crop(s), {measured.images} images{kind}: "
            f"top-1 {measured.top1:.2%} (manifest {expected.top1:.2%}{of})  "
            f"top-5 {measured.top5:.2%} (manifest {expected.top5:.2%}{of})"
        )
    if result.trust is not None:
        print(*trust_lines(result.trust), sep="\n")
    if not result.measured:
        print("the manifest records no accuracy: only parity is checked")
    if result.failures:
        raise ExportError(f"{options.file} fails verification: {'; '.join(result.failures)}")


def _report(options: argparse.Namespace) -> None:
    path, notes = report(options.source, options.data, _trust_options(options))
    _print_notes(notes)
    print(path)


def _figure1(options: argparse.Namespace) -> None:
    print(figure1(options.data, options.out, options.epochs, options.seed))


def _base(options: argparse.Namespace) -> None:
    base = make_base(options)
    top1 = ", ".join(f"{name} {100 * value:.1f} %" for name, value in base["top1"].items())
    print(f"{options.out}: {base['steps']:,} steps; top-1 on their validation pictures: {top1}")


COMMANDS = {
    "summary": _summary,
    "init": _init,
    "import": _import,
    "prepare": _prepare,
    "train": _train,
    "evaluate": _evaluate,
    "export": _export,
    "inspect": _inspect,
    "verify": _verify,
    "report": _report,
    "base": _base,
    "figure1": _figure1,
}

if __name__ == "__main__":
    for number in STOPS:
        signal.signal(number, signal.default_int_handler)
    sys.exit(main())

"""Run the command `train`: check its options, read the photographs, plan the run and train it."""

import argparse
import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from contract.limits import available_memory, usable_cores
from training.batches import batch_size_of, require_whole_pieces
from training.cli.advice import next_command, run_folder
from training.cli.checks import path_problems
from training.cli.overview import overview
from training.cli.plan import choose, describe, fit_epochs, measure
from training.config import Config, configure, override, recipe_values
from training.data.background import load_background
from training.data.prepared import load_dataset
from training.distributed import Ranks, process_group
from training.errors import ConfigError, DataError
from training.run.checkpoint import Checkpoint
from training.run.lock import locked_for_all
from training.run.resume import compare_settings, load_resumable
from training.run.signals import catch_signals
from training.start.init_run import init_run, require_shape
from training.start.record import earlier_run, require_plain_path, trained_in
from training.start.weights import Start, read_start
from training.train import train


def launch(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    """Run the command `train` with these options; `overrides` are the settings of Config among them.

    Raises ConfigError, DataError, CheckpointError, Diverged, or Interrupted.
    """
    started = time.monotonic()
    run = load_resumable(options.out) if options.resume and options.out else None
    if run is not None:
        options.data = options.data or trained_in(run, options.out)
        options.background = options.background or (Path(run.background) if run.background else None)
    options.out = options.out or (run_folder(options.data) if options.data else None)
    config = _settings_of(options, overrides, run)
    with (
        process_group(options.device) as ranks,
        locked_for_all(options.out, ranks) as release,
        catch_signals(release) as signals,
    ):
        say = print if ranks.is_main else _print_nothing
        if run is not None and (warning := compare_settings(run.config, config, options.out)):
            say(warning)
        if options.resume and run is None:
            say(f"there is no run in {options.out} yet, so a new one starts")
        require_plain_path(options.out)
        planned = run is None and options.recipe is None
        if not planned or "batch_size" in overrides:
            require_whole_pieces(config, ranks)
        start = None if run else _start_of(options.start, config.width)
        config = _with_shape_of(start, config, overrides)
        if start is not None:
            require_shape(config, start)
        earlier = earlier_run(options.out, run, start)
        dataset = load_dataset(options.data, config, options.workers, earlier)
        if options.background is not None:
            pictures = load_background(options.background, config.recipe, "background", options.workers)
            dataset = replace(dataset, background=pictures)
            say(f"{len(pictures):,} background pictures")
        if options.classes not in {None, len(dataset.classes)}:
            count = len(dataset.classes)
            raise DataError(f"--classes is {options.classes}, and {options.data} has {count} class folders")
        say(overview(dataset))
        photographs, reason = len(dataset.train), ""
        if planned:
            (free,) = ranks.from_main(torch.tensor([_free_memory(ranks)], dtype=torch.float64)).tolist()
            plan = choose(overrides, options.start, dataset.train, ranks=ranks, free_bytes=free)
            config, reason = _with_shape_of(start, plan.config, overrides), plan.reason
            start = start or _start_of(plan.start, config.width)
        state, description = init_run(config, dataset, options.out, resumed=run, start=start)
        state.data = str(options.data.resolve())
        state.background = str(options.background.resolve()) if options.background else ""
        workers = options.workers or usable_cores()
        if reason or options.time:
            batch_size = batch_size_of(config, photographs, ranks)
            pace = measure(state, dataset, batch_size=batch_size, ranks=ranks, workers=workers)
            seconds = pace.epoch(photographs // batch_size, len(dataset.val))
            if options.time:
                spent = torch.tensor([time.monotonic() - started], dtype=torch.float64)
                left = options.time - ranks.from_main(spent).item()
                config = state.config = fit_epochs(config, left, seconds)
            say(
                describe(
                    state,
                    reason or description,
                    photographs=photographs,
                    epoch_seconds=seconds,
                    limit=options.time,
                    ranks=ranks,
                )
            )
        say(description)
        train(state, dataset, options.out, ranks=ranks, signals=signals, workers=workers, keep=options.keep)
        say(f"now: {next_command(config, options.data, options.out)}")


def _settings_of(options: argparse.Namespace, overrides: dict[str, Any], run: Checkpoint | None) -> Config:
    """Return the settings of the resumed `run`, or of a new one before it is planned.

    Raises ConfigError or DataError with a line for each problem with the settings or the folders.
    """
    base = {} if run is None else asdict(run.config)
    start = None if run else options.start  # --from does not apply to a resumed run
    problems = path_problems(options.data, options.out, start, options.resume)
    if options.time and options.resume:
        problems.append("--time is for a new run; to train the one in --out for longer, raise --epochs")
    bad, recipe = [], {}
    try:
        recipe = recipe_values(options.recipe)
    except ConfigError as error:
        bad.append(str(error))
    try:
        config = configure({**base, **recipe}, overrides)
    except ConfigError as error:
        bad.append(str(error))
    if bad:
        raise ConfigError("\n".join([*bad, *problems]))
    if problems:
        raise DataError("\n".join(problems))
    return config


def _start_of(name: str | None, width: float) -> Start | None:
    """Read the weights that --from names; None if it is not given, or scratch."""
    return None if name in {None, "scratch"} else read_start(name, width)


def _with_shape_of(start: Start | None, config: Config, overrides: dict[str, Any]) -> Config:
    """Set the network settings of `start`, except those in `overrides`, which `require_shape` checks."""
    if start is None:
        return config
    return override(config, {key: value for key, value in start.shape.items() if key not in overrides})


def _print_nothing(*_words: object) -> None:
    """Replace `print` in all processes but the main one."""


def _free_memory(ranks: Ranks) -> float:
    """Return the free memory of the device in bytes; on a CPU, the share of each local process."""
    if ranks.device.type == "cuda":
        return float(torch.cuda.mem_get_info(ranks.device)[0])
    return available_memory() / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))

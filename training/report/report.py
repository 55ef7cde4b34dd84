"""Write one HTML page about a run: its curves, its accuracy by class, and its mistakes.

The page is a single file that loads nothing: curves are inline SVG, pictures data URIs.
"""

from base64 import b64encode
from dataclasses import asdict
from html import escape
from math import isfinite
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from contract.interval import with_interval
from contract.kernels import kernels_picture
from training.data.folders import printable
from training.data.images import Split
from training.evaluate import (
    Evaluation,
    probabilities_of,
    score,
    torch_classifier,
    worst_confusions,
)
from training.export.graph import build_graph
from training.export.trust import DEFAULTS, TrustOptions, add_trust
from training.report.plots import Line, encoded, line_chart
from training.report.trust import trust_part
from training.run import checkpoint
from training.run.checkpoint import Checkpoint
from training.run.choice import choose
from training.run.held_out import load_held_out, record_of
from training.run.log import read_log
from training.start.record import trained_in

MISTAKES = 24  # shown on the page
LEGIBLE = 60  # maximum classes for a confusion table; more are drawn as a picture
THUMBNAIL = 128  # pixels per side
BLUE, ORANGE = "#4a90d9", "#d9772a"
STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8882 }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1, h2 { line-height: 1.2 } svg, img { max-width: 100%; height: auto }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 1rem }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { padding: .15rem .5rem; text-align: right; border-bottom: 1px solid var(--line) }
th { text-align: left; font-weight: normal }
.confusion td { padding: .1rem .35rem; border: 1px solid var(--soft) }
.mistakes { display: grid; grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)); gap: .8rem }
figure, dd { margin: 0 } figcaption { font-size: .85rem } dl { columns: 3 12rem } dt { opacity: .7 }
"""


def report(
    run: Path, data: Path | None = None, options: TrustOptions = DEFAULTS
) -> tuple[Path, tuple[str, ...]]:
    """Write `run`/report.html about the checkpoint that `choose` takes -> its path, and notes.

    The validation photographs are searched in `data`, by default in the folder that the run was trained on.
    The notes say what differs from the run's own. `options` say with what trust is fitted and measured.
    Raises CheckpointError or DataError.
    """
    choice = choose(run)
    state = choice.state
    if data is None:
        data = trained_in(state, run)
    measured = load_held_out(data, record_of(state))
    split = measured.split
    model = checkpoint.restore_model(state)
    probabilities = probabilities_of(torch_classifier(model, state.mean, state.std), split, state.recipe)
    result = score(probabilities, split.labels)
    graph = build_graph(model, state.mean, state.std, "fp32")
    fitted = add_trust(graph, state, data, measured, options)
    title = printable(f"{run.resolve().name}: AlexNet on {state.provenance.get('data', data.name)}")
    page = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{STYLE}</style><h1>{escape(title)}</h1>",
        f"<p>After epoch {state.epoch} of {state.config.epochs}, on {result.images} photographs "
        f"({measured.kind}): top-1 <strong>{with_interval(result.top1, result.images)}</strong>, "
        f"top-5 {100 * result.top5:.1f} %.</p>"
        f"<p>{escape(choice.path.name)}: {escape(choice.description)}.</p>",
        *(f"<p>Note: {escape(note)}.</p>" for note in measured.notes + fitted.notes),
        _curves(run),
        "<h2>What the first layer looks for</h2><p>The kernels of conv1, each stretched to the whole range "
        "of brightness (the paper's Figure 3).</p>",
        _image(kernels_picture(model.conv1.weight.detach().cpu().numpy()), "PNG", "kernels of conv1"),
        _classes(result, state.classes, measured.kind),
        _confusion(result, state.classes),
        ""
        if fitted.trust is None or fitted.results is None
        else trust_part(fitted.trust, fitted.results, fitted.unfamiliar),
        _mistakes(probabilities, split, state.classes),
        _settings(state),
        "</html>",
    ]
    path = run / "report.html" if run.is_dir() else run.with_suffix(".html")
    path.write_text("\n".join(page) + "\n", encoding="utf-8")
    return path, measured.notes + fitted.notes


def _curves(run: Path) -> str:
    rows = read_log(run if run.is_dir() else run.parent)
    if not rows:
        return "<p>The run has no log.</p>"

    def points(key: str) -> list[tuple[float, float]]:
        """Return the finite values: a run may have diverged, and older logs have no val_loss."""
        return [(row.epoch, getattr(row, key)) for row in rows if isfinite(getattr(row, key))]

    training, validation = points("loss"), points("val_loss")
    highest = max((loss for _epoch, loss in training + validation), default=1.0) or 1.0
    losses = [Line("loss, training", BLUE, training)]
    if validation:
        losses.append(Line("loss, validation", ORANGE, validation))
    lines = [
        Line("top-5 accuracy, validation", BLUE, points("top5")),
        Line("top-1 accuracy, validation", ORANGE, points("top1")),
    ]
    left = line_chart(losses, "epoch", highest, percent=False)
    right = line_chart(lines, "epoch", 1, percent=True)
    return f'<h2>How it went</h2><div class="curves"><div>{left}</div><div>{right}</div></div>'


def _classes(result: Evaluation, classes: tuple[str, ...], kind: str) -> str:
    counts, correct = result.confusion.sum(1).tolist(), result.confusion.diagonal().tolist()
    order = sorted(range(len(classes)), key=lambda i: correct[i] / max(counts[i], 1))
    rows = "".join(
        f"<tr><th>{escape(classes[i])}<td>{correct[i]} of {counts[i]}<td>{correct[i] / counts[i]:.0%}"
        for i in order
        if counts[i]
    )
    return f"<h2>Class by class, the hardest first</h2><p>Of the {kind}.</p><table>{rows}</table>"


def _confusion(result: Evaluation, classes: tuple[str, ...]) -> str:
    """Draw the confusion matrix: rows are true classes, columns answers; many classes as a picture."""
    title = "<h2>What is taken for what</h2><p>A row for each class, a column for each answer.</p>"
    shares = result.confusion / result.confusion.sum(1, keepdim=True).clamp(min=1)
    if len(classes) > LEGIBLE:
        levels = (255 * (1 - shares)).round().to(torch.uint8)
        picture = _image(Image.fromarray(levels.numpy()), "PNG", "confusion of the classes")
        worst = "".join(f"<li>{escape(line)}" for line in worst_confusions(result.confusion, classes, 30))
        return f"{title}{picture}<ol>{worst}</ol>"
    rows = []
    for index, (counts, row) in enumerate(zip(result.confusion.tolist(), shares.tolist(), strict=True)):
        cells = "".join(
            f'<td title="{escape(classes[index])} taken for {escape(name)}" '
            f'style="background:rgb(74 144 217 / {share:.2f})">{count or ""}'
            for name, count, share in zip(classes, counts, row, strict=True)
        )
        rows.append(f"<tr><th>{index + 1}. {escape(classes[index])}{cells}")
    head = "".join(f"<td>{i + 1}" for i in range(len(classes)))
    table = f'<table class="confusion"><tr><th>{head}{"".join(rows)}</table>'
    return f'{title}<div class="wide">{table}</div>'


def _mistakes(probabilities: Tensor, split: Split, classes: tuple[str, ...]) -> str:
    """Show the mistakes with the highest probabilities."""
    confidence, answers = probabilities.max(1)
    confidence = torch.where(answers == split.labels, -1, confidence)
    figures = []
    for index in confidence.argsort(descending=True, stable=True)[:MISTAKES].tolist():
        if confidence[index] < 0:
            break
        picture = Image.fromarray(split.squares(torch.tensor([index]))[0].numpy()).resize(
            (THUMBNAIL, THUMBNAIL)
        )
        label, answer = classes[int(split.labels[index])], classes[int(answers[index])]
        image = _image(picture, "JPEG", f"{label} taken for {answer}")
        text = f"{escape(label)}, taken for <strong>{escape(answer)}</strong> with {confidence[index]:.0%}"
        figures.append(f"<figure>{image}<figcaption>{text}</figcaption></figure>")
    return f'<h2>The worst mistakes</h2><div class="mistakes">{"".join(figures) or "None."}</div>'


def _settings(state: Checkpoint) -> str:
    values = {
        **asdict(state.config),
        **{k: v for k, v in state.provenance.items() if not isinstance(v, dict)},
    }
    rows = "".join(f"<dt>{escape(key)}<dd>{escape(str(value))}" for key, value in values.items())
    return f"<h2>Settings and origin</h2><dl>{rows}</dl>"


def _image(picture: Image.Image, kind: str, text: str) -> str:
    data = b64encode(encoded(picture, kind)).decode()
    return f'<img alt="{escape(text)}" src="data:image/{kind.lower()};base64,{data}">'

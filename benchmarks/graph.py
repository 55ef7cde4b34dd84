"""Compare the exported graph with that of torch.onnx.export, and with the limit of the processor.

    python -m benchmarks.graph

Measures all graphs in one run, by turns, on untrained networks of the paper's shape: the speed does not
depend on the weights. Prints ms per image, the ratio to the default graph of torch.onnx.export, how close
each comes to its limit, and where the time goes. "TorchScript's" is the default graph of torch.onnx.export
until PyTorch 2.9, with other nodes for the normalisation.

The limit of a batch is the sum over the layers of the larger of two times: its multiply-adds at the rate of
a large matrix product in the same runtime, and its weights at the rate at which one core reads memory,
times the number of cores. It does not include normalisation and pooling.
"""

import argparse
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections import defaultdict
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from benchmarks.support.machine import Watch
from contract.limits import usable_cores
from training.export.graph import build_graph
from training.export.quantize import calibrate, rounding_of
from training.model import LRN_ALPHA, LRN_K, LRN_SIZE, AlexNet, layer_table, weighted_layers

MEAN, STD = [123.0, 117.0, 104.0], [1.0, 1.0, 1.0]
BASE = "torch.onnx.export"
OLD = "TorchScript's"
SECONDS = 4.0  # per graph and batch size


def write_graphs(model: AlexNet, folder: Path) -> dict[str, Path]:
    """Write two graphs of torch and ours in two precisions; return the files by name."""
    files = {BASE: folder / "default.onnx", OLD: folder / "torchscript.onnx"}
    _torch_graph(model, files[BASE], dynamo=True)
    _torch_graph(model, files[OLD], dynamo=False)
    crops = torch.randint(0, 256, (16, 224, 224, 3), dtype=torch.uint8)
    steps = calibrate(model, MEAN, STD, crops)
    layers = [name for name, _layer in weighted_layers(model)]
    for precision, rounded in (("fp32", []), ("int8", layers)):
        files[precision] = folder / f"{precision}.onnx"
        graph = build_graph(model, MEAN, STD, precision, rounding_of(model, rounded, steps))
        files[precision].write_bytes(graph.SerializeToString())
    return files


def _torch_graph(model: AlexNet, path: Path, dynamo: bool) -> None:
    logging.getLogger("torch.onnx").setLevel(
        logging.ERROR
    )  # silences a warning that torchvision is missing
    plain = deepcopy(model)
    plain.norm1 = plain.norm2 = nn.LocalResponseNorm(LRN_SIZE, LRN_ALPHA * LRN_SIZE, 0.75, LRN_K)  # type: ignore[assignment]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations within torch itself
        if dynamo:
            options: dict[str, Any] = {"dynamic_shapes": ({0: torch.export.Dim("batch")},)}
        else:
            options = {"input_names": ["images"], "dynamic_axes": {"images": {0: "batch"}}}
        network, images = nn.Sequential(plain, nn.Softmax(1)), torch.zeros(2, 3, 224, 224)
        torch.onnx.export(
            network, (images,), path, dynamo=dynamo, external_data=False, verbose=False, **options
        )


def open_session(file: Path, profile: str = "") -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.log_severity_level = 3
    # Otherwise threads of one session spin while the next one is timed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def feed(session: ort.InferenceSession, batch: int) -> dict[str, Any]:
    (model_input,) = session.get_inputs()
    draw = np.random.default_rng(0)
    if "uint8" in model_input.type:
        return {model_input.name: draw.integers(0, 256, (batch, 224, 224, 3), dtype=np.uint8)}
    return {model_input.name: draw.normal(0, 70, (batch, 3, 224, 224)).astype(np.float32)}


def in_turns(files: dict[str, Path], batch: int) -> dict[str, float]:
    """Return the median ms of a run by name; graphs take turns, so that disturbances affect all."""
    sessions = {name: open_session(file) for name, file in files.items()}
    feeds = {name: feed(session, batch) for name, session in sessions.items()}
    times: dict[str, list[float]] = defaultdict(list)
    end = time.perf_counter() + SECONDS * len(files)
    while time.perf_counter() < end:
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run([session.get_outputs()[0].name], feeds[name])
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(spent[1:] or spent) for name, spent in times.items()}


def nodes(file: Path, batch: int, folder: Path) -> list[tuple[str, str, float]]:
    """Return (kind, name, fraction of the time) of every node of the optimised graph."""
    session = open_session(file, profile=str(folder / "profile"))
    for _run in range(10):
        session.run(None, feed(session, batch))
    spent: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event["name"].endswith("_kernel_time"):
            spent[event["args"]["op_name"], event["name"].removesuffix("_kernel_time")].append(event["dur"])
    medians = {key: statistics.median(times) for key, times in spent.items()}
    return [(*key, time / sum(medians.values())) for key, time in medians.items()]


def peak(precision: str, side: int = 1536) -> float:
    """Return the multiply-adds per second of a square matrix product in ONNX Runtime, the best of ten."""
    draw, is_float = np.random.default_rng(0), precision == "fp32"
    kinds = (
        (TensorProto.FLOAT,) * 3 if is_float else (TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32)
    )
    a, b = (
        draw.integers(0, 127, (side, side)).astype(helper.tensor_dtype_to_np_dtype(k)) for k in kinds[:2]
    )
    graph = helper.make_graph(
        [helper.make_node("MatMul" if is_float else "MatMulInteger", ["a", "b"], ["c"])],
        "peak",
        [helper.make_tensor_value_info("a", kinds[0], [side, side])],
        [helper.make_tensor_value_info("c", kinds[2], [side, side])],
        [numpy_helper.from_array(b, "b")],
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "peak.onnx")
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        file.write_bytes(model.SerializeToString())
        session = open_session(file)
    return float(side**3 / min(_seconds(lambda: session.run(None, {"a": a})) for _run in range(10)))


def bandwidth() -> float:
    """Return the bytes/s that one core reads from an array larger than its caches, times the cores."""
    values = np.ones(1 << 27, np.float32)
    return usable_cores() * values.nbytes / min(_seconds(values.sum) for _run in range(5))


def _seconds(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def limit_ms(model: AlexNet, batch: int, rate: float, read: float, weight_bytes: int) -> float:
    """Return the limit of a batch in ms, as the module docstring defines it."""
    cost = {row.name: row.multiply_adds for row in layer_table(model)}
    return 1000 * sum(
        max(batch * cost[name] / rate, layer.weight.numel() * weight_bytes / read)
        for name, layer in weighted_layers(model)
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--width", type=float, default=1.0, help="width of the network (default 1, the paper's)"
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 16], help="(default 1 8 16)")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    model = AlexNet(1000, options.width, "kaiming").eval()
    rates = {precision: peak(precision) for precision in ("fp32", "int8")}
    read = bandwidth()
    print(f"ONNX Runtime {ort.__version__}, {usable_cores()} threads; peak ", end="")
    print(*(f"{p} {rate / 1e9:.0f}" for p, rate in rates.items()), sep=", ", end=" ")
    print(f"10^9 multiply-adds/s, memory {read / 1e9:.0f} GB/s")
    with tempfile.TemporaryDirectory() as name, Watch() as watch:
        folder = Path(name)
        files = write_graphs(model, folder)
        sizes = ", ".join(f"{name} {file.stat().st_size / 1e6:.1f} MB" for name, file in files.items())
        print(f"{sizes}\n\n{'batch':>5}  {'graph':18}{'ms/image':>9}{'ratio':>7}{'limit':>8}{'share':>7}")
        for batch in options.batches:
            times = in_turns(files, batch)
            for name, spent in times.items():
                precision = "int8" if name == "int8" else "fp32"
                limit = limit_ms(model, batch, rates[precision], read, 1 if precision == "int8" else 4)
                print(
                    f"{batch:5}  {name:18}{spent / batch:9.2f}{times[BASE] / spent:7.2f}"
                    f"{limit / batch:8.2f}{limit / spent:7.0%}"
                )
        for name, file in files.items():
            node_times = nodes(file, options.batches[-1], folder)
            products = sum(part for kind, _name, part in node_times if kind.endswith(("Conv", "Gemm")))
            rest = [node for node in node_times if not node[0].endswith(("Conv", "Gemm"))]
            print(
                f"\n{name}, batch {options.batches[-1]}: {products:.0%} in convolutions and products; then"
            )
            for kind, label, part in sorted(rest, key=lambda node: -node[2])[:4]:
                print(f"  {part:5.1%}  {kind:18} {label}")
    print(f"\nother guests took {watch.steal:.1f} % of the cores")


if __name__ == "__main__":
    main()

"""Tests of the cost of our networks: shapes agree with the package onnx, and all are accepted."""

from math import prod

from onnx import helper, shape_inference

from service.models import onnx_cost
from service.models.onnx_cost import BATCHES, LRN_COST, MAX_VALUES, MAX_WORK
from service.models.onnx_file import OPERATORS, read
from tests.support.models.costs import FIRST, check, conv, floats, graph, lrn
from tests.support.models.graphs import SHIPPED, add_part, networks
from training.export.graph import PRECISIONS, build_graph
from training.model import AlexNet, Variant


def test_every_operator_has_a_rule() -> None:
    assert onnx_cost.OPERATORS.keys() == OPERATORS


def test_shapes_are_those_that_the_package_onnx_infers() -> None:
    for model in networks():
        file = read(model.SerializeToString())
        onnx_cost.check(file)
        for batch in BATCHES:
            run = onnx_cost._Run(file, batch)
            run.check()
            model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
            for output in model.graph.output:
                output.type.tensor_type.shape.dim[0].dim_value = batch
            inferred = shape_inference.infer_shapes(
                model, check_type=True, strict_mode=True, data_prop=True
            )
            expected = {
                value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
                for value in [*inferred.graph.value_info, *inferred.graph.output]
            }
            assert {name: run.shapes[name] for name in expected} == expected
            assert expected.keys() >= {output for node in model.graph.node for output in node.output}


def test_our_largest_network_costs_less_than_half_of_the_limits() -> None:
    model = AlexNet(1000, 1.0, variant=Variant("one-tower", "relu", True, "overlapping"))
    values, work = [], []
    for precision in PRECISIONS:
        network = build_graph(model, [1.0] * 3, [1.0] * 3, precision)
        file = read(add_part(network, precision, 2048, 2048).SerializeToString())
        onnx_cost.check(file)
        run = onnx_cost._Run(file, 1)
        run.check()
        values.append(run.values)
        work.append(run.work)
    assert MAX_VALUES / 4 < max(values) < MAX_VALUES / 2
    assert MAX_WORK / 4 < max(work) < MAX_WORK / 2


def test_shipped_model_is_accepted() -> None:
    check(SHIPPED.read_bytes())


def test_costs_are_counted() -> None:
    nodes = [
        FIRST,
        conv("x", "y", strides=[4, 4], pads=[2, 2, 2, 2], group=1),
        helper.make_node("MaxPool", ["y"], ["z"], kernel_shape=[3, 3], strides=[2, 2]),
        helper.make_node("Flatten", ["z"], ["f"]),
        helper.make_node("Gemm", ["f", "w"], ["g"], transB=1),
        helper.make_node("Mul", ["w", "w"], ["folded"]),
        lrn("x", "n"),
    ]
    run = onnx_cost._Run(read(graph(nodes, kernels=floats(8, 3, 11, 11), w=floats(5, 8 * 27 * 27))), 2)
    run.check()
    picture, matrix = 224 * 224 * 3, 3 * 11 * 11 * 55 * 55
    assert [run.shapes[name] for name in "yzfg"] == [(2, 8, 55, 55), (2, 8, 27, 27), (2, 5832), (2, 5)]
    assert run.shapes["n"] == (2, 3, 224, 224)
    assert run.values == 2 * (3 * picture + 8 * 55 * 55 + 2 * 8 * 27 * 27 + 5)
    assert run.work == 2 * (8 * matrix + 8 * matrix + 8 * 8 * 27 * 27 * 9 + 5832 * 5 + LRN_COST * picture)
    assert run.folded == prod((5, 5832))

"""Tests of the costs and refusals of what the unfamiliarity's part of the graph has."""

from itertools import pairwise

import pytest
from onnx import helper

from service.models import onnx_cost
from service.models.onnx_file import read
from service.models.onnx_wire import OnnxError
from tests.support.models.costs import FIRST, FLAT, check, floats, graph

GEMM = helper.make_node("Gemm", ["flat", "w", "added"], ["y"])


@pytest.mark.parametrize("kind", ["Exp", "Log"])
def test_exponentials_and_logarithms_cost_their_values(kind: str) -> None:
    run = onnx_cost._Run(read(graph([FLAT, helper.make_node(kind, ["flat"], ["y"])])), 2)
    run.check()
    assert (run.values, run.work) == (3 * 2 * 224 * 224 * 3, 0)
    names = ["x", *(f"x{n}" for n in range(150))]
    chain = [helper.make_node(kind, [a], [b]) for a, b in pairwise(names)]
    with pytest.raises(OnnxError, match="values for an image"):
        check(graph([FIRST, *chain]))


@pytest.mark.parametrize("kind", ["Exp", "Log"])
def test_exponentials_and_logarithms_have_no_attributes_and_no_constants(kind: str) -> None:
    with pytest.raises(OnnxError, match=f"{kind} with the attribute axis"):
        check(graph([helper.make_node(kind, ["pixels"], ["y"], axis=1)]))
    with pytest.raises(OnnxError, match=f"{kind} of constants alone"):
        check(graph([helper.make_node(kind, ["w"], ["y"])], w=floats(9)))


@pytest.mark.parametrize("shape", [(), (1,), (5,), (1, 5), (1, 1)])
def test_what_gemm_adds_may_be_smaller(shape: tuple[int, ...]) -> None:
    check(graph([FLAT, GEMM], w=floats(150528, 5), added=floats(*shape)))


def test_gemm_adds_a_matrix_that_is_computed() -> None:
    product = helper.make_node("Gemm", ["flat", "w"], ["added"])
    check(graph([FLAT, product, GEMM], w=floats(150528, 5)))


@pytest.mark.parametrize("shape", [(3,), (2, 5), (5, 1), (256, 5), (1, 1, 5), (9, 1, 5)])
def test_what_gemm_adds_must_fit(shape: tuple[int, ...]) -> None:
    """ONNX Runtime would only fail when the network runs, and maybe only for some batch sizes."""
    with pytest.raises(OnnxError, match=r"do(es)? not fit"):
        check(graph([FLAT, GEMM], w=floats(150528, 5), added=floats(*shape)))

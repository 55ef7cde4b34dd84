"""Estimate what a network costs to load and to run from its shapes, before ONNX Runtime sees it.

Every shape follows from the stored tensors and the input images; a network whose shapes depend on computed
values is refused. The limits are two to three times what our largest network takes, which is `one-tower`
at full width.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import isclose, nan, prod
from typing import Final

from service.models.onnx_file import MAX_DIMENSIONS, Node, OnnxFile
from service.models.onnx_wire import OnnxError

Shape = tuple[int, ...]

IMAGE: Final = (224, 224, 3)
# At the larger size, a cost that grows faster than the batch is far above its limit.
BATCHES: Final = (1, 256)
MAX_NODES: Final = 500  # ours have up to 140
MAX_VALUES: Final = 20_000_000  # in the outputs of all nodes for one image; ours have up to 11 million
MAX_WORK: Final = 4_000_000_000  # multiplications for one image; ours have up to 1.7 billion
# Values computed from constants alone: MAX_FOLDED, and FOLDED_PER_STORED more for every stored value,
# because int8 weights are cast and then multiplied.
MAX_FOLDED: Final = 1_000_000
FOLDED_PER_STORED: Final = 3
FOLDING: Final = frozenset(("Cast", "DequantizeLinear", "Expand", "Mul"))
# Moving a value (in pooling, or into a convolution's matrix) takes as long as so many multiplications.
MOVE_COST: Final = 8
# A value of an LRN takes as long as so many multiplications, because a CPU computes a power for it.
LRN_COST: Final = 1000
# The values of the paper, section 3.3, the only ones that are exported; ONNX divides alpha by the size.
LRN_SIZE: Final = 5
LRN_FLOATS: Final = {"alpha": 5e-4, "beta": 0.75, "bias": 2.0}
FLOATS: Final = (1, 10)  # TensorProto.DataType: the types that `Cast` may produce


def check(file: OnnxFile) -> None:
    """Raise OnnxError unless the network costs about as little to load and run as one of ours."""
    if len(file.nodes) > MAX_NODES:
        raise OnnxError(f"has {len(file.nodes)} operations; {MAX_NODES} are allowed")
    for name, tensor in file.initializers.items():
        tensor.require_values()
        if 0 in tensor.shape:
            raise OnnxError(f"is damaged: {name[:40]} has no values")
    for batch in BATCHES:
        _Run(file, batch).check()


@dataclass
class _Run:
    """Shapes and costs of a run with `batch` images; `constants` are values independent of them."""

    file: OnnxFile
    batch: int
    shapes: dict[str, Shape] = field(default_factory=dict)
    constants: set[str] = field(default_factory=set)
    values: int = 0
    work: int = 0
    folded: int = 0

    def check(self) -> None:
        stored = self.file.initializers
        self.shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
        self.constants = set(stored)
        max_folded = MAX_FOLDED + FOLDED_PER_STORED * sum(map(prod, self.shapes.values()))
        if "images" in self.shapes:
            raise OnnxError("stores a tensor by the name of its input, images")
        self.shapes["images"] = (self.batch, *IMAGE)
        for node in self.file.nodes:
            self.add(node)
            _limit("values", self.values, MAX_VALUES * self.batch, self.batch)
            _limit("multiplications", self.work, MAX_WORK * self.batch, self.batch)
            if self.folded > max_folded:
                raise OnnxError(
                    f"computes more than {max_folded:,} values from its constants; none of ours does"
                )

    def add(self, node: Node) -> None:
        """Infer the shape of the node's output and add its cost."""
        operator = OPERATORS[node.kind]
        if unknown := sorted(node.attributes.keys() - operator.attributes):
            raise OnnxError(f"has {node.kind} with the attribute {unknown[0][:40]}, as no network of ours")
        if len(node.inputs) not in operator.inputs or len(node.outputs) != 1:
            raise OnnxError(
                f"has {node.kind} with a number of inputs or outputs that no network of ours has"
            )
        (output,) = node.outputs
        if not output or output in self.shapes:
            raise OnnxError(f"has the value {output[:40]} twice")
        if missing := [name for name in node.inputs if name not in self.shapes]:
            raise OnnxError(f"uses the value {missing[0][:40]} before it is computed")
        shape = operator.shape(self, node)
        values = prod(shape)
        self.shapes[output] = shape
        if self.constants.issuperset(node.inputs):
            if node.kind not in FOLDING:
                raise OnnxError(f"has {node.kind} of constants alone, as no network of ours")
            self.constants.add(output)
            self.folded += values
        else:
            self.values += values

    # Shapes of the outputs, one method for each kind of rule.

    def same(self, node: Node) -> Shape:
        return self.shapes[node.inputs[0]]

    def cast(self, node: Node) -> Shape:
        if node.attributes.get("to") not in FLOATS:
            raise OnnxError("has Cast to a type that no network of ours computes in")
        return self.same(node)

    def broadcast(self, node: Node) -> Shape:
        left, right = (self.shapes[name] for name in node.inputs)
        return _broadcast(left, right)

    def expand(self, node: Node) -> Shape:
        target = self.dimensions(node.inputs[1])
        if min(target, default=1) < 1:
            raise OnnxError("has Expand to an invalid shape")
        return _broadcast(self.same(node), tuple(target))

    def reshape(self, node: Node) -> Shape:
        target, values = self.dimensions(node.inputs[1]), prod(self.same(node))
        known = prod(size for size in target if size != -1)
        if target.count(-1) > 1 or known < 1 or min(target, default=1) < -1 or values % known:
            raise OnnxError("has Reshape to a shape that does not fit")
        shape = tuple(values // known if size == -1 else size for size in target)
        if prod(shape) != values:
            raise OnnxError("has Reshape to a shape that does not fit")
        return shape

    def flatten(self, node: Node) -> Shape:
        shape = self.same(node)
        return (*shape[:1], prod(shape[1:])) if shape else (1, 1)

    def transpose(self, node: Node) -> Shape:
        shape, order = self.same(node), _ints(node, "perm", [])
        if sorted(order) != list(range(len(shape))):
            raise OnnxError("has Transpose in an order that does not fit")
        return tuple(shape[axis] for axis in order)

    def gemm(self, node: Node) -> Shape:
        left, right = (self.shapes[name] for name in node.inputs[:2])
        if len(left) != 2 or len(right) != 2:
            raise OnnxError("has Gemm of operands that are not matrices")
        if node.attributes.get("transB", 0):
            right = right[::-1]
        if left[1] != right[0]:
            raise OnnxError("has Gemm of matrices that do not fit")
        shape = (left[0], right[1])
        if any(_broadcast(shape, self.shapes[added]) != shape for added in node.inputs[2:]):
            raise OnnxError("has Gemm that adds a matrix that does not fit")
        self.work += left[0] * left[1] * right[1]
        return shape

    def convolve(self, node: Node) -> Shape:
        images, kernels = (self.shapes[name] for name in node.inputs[:2])
        group = node.attributes.get("group", 1)
        if not isinstance(group, int) or group < 1 or len(kernels) != len(images) or len(images) < 3:
            raise OnnxError("has Conv of shapes that do not fit")
        if images[1] != kernels[1] * group or kernels[0] % group:
            raise OnnxError("has Conv of channels that do not fit")
        if _ints(node, "kernel_shape", list(kernels[2:])) != list(kernels[2:]):
            raise OnnxError("has Conv with a kernel_shape that is not the weights'")
        positions = self.windows(node, kernels[2:])
        matrix = images[1] * prod(kernels[2:]) * prod(positions)  # of one image, if it is built at all
        _limit("values", matrix, MAX_VALUES, 1)
        self.work += images[0] * (kernels[0] * prod(kernels[1:]) * prod(positions) + MOVE_COST * matrix)
        return (images[0], kernels[0], *positions)

    def pool(self, node: Node) -> Shape:
        images, kernel = self.same(node), tuple(_ints(node, "kernel_shape", []))
        positions = self.windows(node, kernel)
        self.work += MOVE_COST * prod(images[:2]) * prod(positions) * prod(kernel)
        return (*images[:2], *positions)

    def lrn(self, node: Node) -> Shape:
        shape = self.same(node)
        if len(shape) != 4:
            raise OnnxError("has LRN of a shape that does not fit")
        if node.attributes.get("size") != LRN_SIZE or not all(
            isclose(node.floats.get(name, nan), value, rel_tol=1e-6) for name, value in LRN_FLOATS.items()
        ):
            raise OnnxError("has LRN with other values than our networks'")
        self.work += LRN_COST * prod(shape)
        return shape

    def windows(self, node: Node, kernel: Shape) -> Shape:
        """Count a window's positions along each axis except the batch's and the channels'."""
        sizes = self.same(node)[2:]
        strides = _ints(node, "strides", [1] * len(sizes))
        pads = _ints(node, "pads", [0] * 2 * len(sizes))
        if not len(sizes) == len(kernel) == len(strides) == len(pads) / 2 or not sizes:
            raise OnnxError(f"has {node.kind} with a window that does not fit")
        if min(*kernel, *strides) < 1 or min(pads) < 0:
            raise OnnxError(f"has {node.kind} with a window that does not fit")
        padded = [size + sum(pads[axis :: len(sizes)]) for axis, size in enumerate(sizes)]
        if any(window > size for window, size in zip(kernel, padded, strict=True)):
            raise OnnxError(f"has {node.kind} with a window that does not fit")
        axes = zip(padded, kernel, strides, strict=True)
        return tuple((size - window) // stride + 1 for size, window, stride in axes)

    def dimensions(self, name: str) -> list[int]:
        """Read a stored shape. Raises OnnxError if it is computed, or is not a list of integers."""
        tensor = self.file.initializers.get(name)
        if tensor is None:
            raise OnnxError(f"takes the shape {name[:40]} from what it computes; none of ours does")
        if tensor.kind != 7 or len(tensor.shape) != 1 or tensor.shape[0] > MAX_DIMENSIONS:
            raise OnnxError(f"is damaged: {name[:40]} is not a shape")
        return [int(size) for size in tensor.values()]


@dataclass(frozen=True)
class _Operator:
    shape: Callable[[_Run, Node], Shape]
    inputs: tuple[int, ...]
    attributes: frozenset[str]


def _operator(shape: Callable[[_Run, Node], Shape], inputs: tuple[int, ...], *attributes: str) -> _Operator:
    return _Operator(shape, inputs, frozenset(attributes))


_UNARY: Final = _operator(_Run.same, (1,))
_BINARY: Final = _operator(_Run.broadcast, (2,))
_QUANTISED: Final = _operator(_Run.same, (2, 3), "axis")
OPERATORS: Final = {
    "Add": _BINARY,
    "AveragePool": _operator(_Run.pool, (1,), "kernel_shape", "pads", "strides", "count_include_pad"),
    "Cast": _operator(_Run.cast, (1,), "to"),
    "Conv": _operator(_Run.convolve, (2, 3), "kernel_shape", "pads", "strides", "group"),
    "DequantizeLinear": _QUANTISED,
    "Div": _BINARY,
    "Exp": _UNARY,
    "Expand": _operator(_Run.expand, (2,)),
    "Flatten": _operator(_Run.flatten, (1,)),
    "Gemm": _operator(_Run.gemm, (2, 3), "transB"),
    "Identity": _UNARY,
    "LRN": _operator(_Run.lrn, (1,), "size", *LRN_FLOATS),
    "Log": _UNARY,
    "MaxPool": _operator(_Run.pool, (1,), "kernel_shape", "pads", "strides"),
    "Mul": _BINARY,
    "Pow": _BINARY,
    "QuantizeLinear": _QUANTISED,
    "Relu": _UNARY,
    "Reshape": _operator(_Run.reshape, (2,)),
    "Softmax": _operator(_Run.same, (1,), "axis"),
    "Sqrt": _UNARY,
    "Sub": _BINARY,
    "Tanh": _UNARY,
    "Transpose": _operator(_Run.transpose, (1,), "perm"),
}


def _limit(unit: str, cost: int, limit: int, images: int) -> None:
    if cost > limit:
        raise OnnxError(
            f"takes {cost // images:,} {unit} for an image; {limit // images:,} are allowed, "
            "which is more than any network of ours takes"
        )


def _broadcast(left: Shape, right: Shape) -> Shape:
    length = max(len(left), len(right))
    pairs = zip((1,) * (length - len(left)) + left, (1,) * (length - len(right)) + right, strict=True)
    sizes = [(max(a, b), min(a, b)) for a, b in pairs]
    if any(small not in {1, large} for large, small in sizes):
        raise OnnxError("has operands whose shapes do not fit each other")
    return tuple(large for large, _small in sizes)


def _ints(node: Node, name: str, default: list[int]) -> list[int]:
    value = node.attributes.get(name, default)
    if not isinstance(value, list):
        raise OnnxError(f"has {node.kind} with a {name} that is not a list of integers")
    return value

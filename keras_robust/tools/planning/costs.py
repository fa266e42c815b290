"""Costs of passes: arithmetic, memory traffic, and the memory that a device needs while it trains.

The cost of a pass is read from the graph that TensorFlow makes of it.

Arithmetic: only convolutions and matrix products are counted, with two operations for a multiplication and an addition.

Memory traffic: we assume a compiler that fuses operations where it can. A tensor is then in memory if a convolution,
matrix product or pooling writes or reads it, if the backward half of the pass needs it, or if it is an input of the
pass. An operation reads those of its inputs, and writes those of its outputs, that are in memory. All other tensors
stay in registers.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_robust.core.seeds import Tensor
from keras_robust.methods import RobustModel
from keras_robust.methods.replica_state import KeepsReplicaState
from keras_robust.tools.planning.passes import Pass, image_shape

VIEWS = ("Identity", "Reshape", "Squeeze", "ExpandDims", "StopGradient", "Cast")
"""Operations that are free, because they leave the tensor in memory as it is. A cast to a smaller dtype is not free."""
SHAPES = ("Shape", "ShapeN", "Size", "Rank")
"""Operations that need only a shape, which is known before anything runs."""
WEIGHTS = ("ReadVariableOp", "Const")
POOLINGS = ("MaxPool", "MaxPoolGrad", "AvgPool", "AvgPoolGrad")
UNKNOWN = ("Conv", "MatMul", "Einsum", "PartitionedCall", "While")
"""Parts of names of expensive or nested operations. Those that are not in `FLOPS` cannot be counted."""
USABLE = 0.9
"""Share of a device's memory that tensors can use. We assume that programs, kernels and gaps take the rest."""


def _size(tensor: Tensor) -> int:
    if tensor.op.type == "FusedBatchNormV3" and tensor.value_index == 5:
        return 0  # what only cuDNN writes, for its gradient
    if not tensor.shape.is_fully_defined():
        raise ValueError(f"A plan needs a classifier with shapes that are known before it runs. Received: {tensor}")
    return math.prod(tensor.shape)


def _matrix_product(operation: tf.Operation) -> int:
    rows, columns = operation.inputs[0].shape
    return 2 * _size(operation.outputs[0]) * (rows if operation.get_attr("transpose_a") else columns)


def _batch_matrix_product(operation: tf.Operation) -> int:
    inner = operation.inputs[0].shape[-2 if operation.get_attr("adj_x") else -1]
    return 2 * _size(operation.outputs[0]) * inner


# A convolution with a kernel (height, width, depth, filters) needs height x width x depth multiplications for each of
# its outputs. Each of its two gradients needs as many for each output of the convolution.
FLOPS: dict[str, Callable[[tf.Operation], int]] = {
    "Conv2D": lambda conv: 2 * _size(conv.outputs[0]) * math.prod(conv.inputs[1].shape[:3]),
    "Conv2DBackpropInput": lambda conv: 2 * _size(conv.inputs[2]) * math.prod(conv.inputs[1].shape[:3]),
    "Conv2DBackpropFilter": lambda conv: 2 * _size(conv.inputs[2]) * math.prod(conv.outputs[0].shape[:3]),
    "DepthwiseConv2dNative": lambda conv: 2 * _size(conv.outputs[0]) * math.prod(conv.inputs[1].shape[:2]),
    "DepthwiseConv2dNativeBackpropInput": lambda conv: 2 * _size(conv.inputs[2]) * math.prod(conv.inputs[1].shape[:2]),
    "DepthwiseConv2dNativeBackpropFilter": lambda conv: (
        2 * _size(conv.inputs[2]) * math.prod(conv.outputs[0].shape[:2])
    ),
    "MatMul": _matrix_product,
    "BatchMatMulV2": _batch_matrix_product,
}
"""Number of floating-point operations of an operation, by TensorFlow's name of it."""


@dataclasses.dataclass(frozen=True)
class Operation:
    """The cost of an operation of a pass.

    Attributes:
        flops: number of floating-point operations.
        traffic: bytes that it reads from and writes to memory.
        dtype: dtype in which it multiplies; "" if it does not multiply.
    """

    flops: int
    traffic: int
    dtype: str


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of a pass.

    Attributes:
        operations: costs of the operations, in the order of the graph.
        kept: bytes that the forward half keeps for the backward half.
        workspace: bytes of two gradients as large as the largest activation: the input and the output of an operation
            of the backward half.
    """

    operations: tuple[Operation, ...]
    kept: int
    workspace: int

    @property
    def flops(self) -> int:
        """Floating-point operations."""
        return sum(operation.flops for operation in self.operations)

    @property
    def traffic(self) -> int:
        """Bytes read and written."""
        return sum(operation.traffic for operation in self.operations)


def cost_of(one: Pass) -> Cost:
    """Returns the cost of one run of a pass.

    Raises:
        ValueError: if an operation cannot be counted, or a shape depends on the images.
    """
    forward: set[str] = set()
    weights = [variable.value for variable in one.classifier.trainable_variables] if one.of_weights else []

    def run(images: Tensor, labels: Tensor) -> list[Tensor]:
        watched = [*weights, *([images] if one.of_images else [])]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(watched)
            losses = one.losses(images, labels)
        forward.update(operation.name for operation in losses.graph.get_operations())
        return tape.gradient(losses, watched) if watched else losses

    images = tf.TensorSpec((one.images, *image_shape(one.classifier)), tf.float32)
    labels = tf.TensorSpec((one.images,), tf.int32)
    graph = tf.function(run, autograph=False).get_concrete_function(images, labels).graph
    return _Reader(list(_needed(graph)), forward).read()


def _needed(graph: tf.Graph) -> Iterator[tf.Operation]:
    """Yields the operations that the outputs need, in order. TensorFlow removes the others before it runs a graph."""
    needed: set[str] = set()
    left = [*(tensor.op for tensor in graph.outputs), *graph.control_outputs]
    while left:
        operation = left.pop()
        if operation.name not in needed:
            needed.add(operation.name)
            left += [*(tensor.op for tensor in operation.inputs), *operation.control_inputs]
    return (operation for operation in graph.get_operations() if operation.name in needed)


def _is_view(operation: tf.Operation) -> bool:
    return operation.type in VIEWS and operation.inputs[0].dtype.size <= operation.outputs[0].dtype.size


def _origin(tensor: Tensor) -> Tensor:
    """Returns the tensor that `tensor` is a view of."""
    while _is_view(tensor.op):
        tensor = tensor.op.inputs[0]
    return tensor


def _bytes(tensor: Tensor) -> int:
    return 0 if tensor.dtype == tf.resource else _size(tensor) * tensor.dtype.size


class _Reader:
    """Reads costs from a graph.

    Args:
        operations: the operations of the graph.
        forward: names of the operations in the forward half.
    """

    def __init__(self, operations: list[tf.Operation], forward: set[str]) -> None:
        free = (*SHAPES, *WEIGHTS)
        self.operations = [each for each in operations if each.type not in free and not _is_view(each)]
        self.forward = forward

    def read(self) -> Cost:
        """Returns the costs."""
        read = [(each, tensor) for each in self.operations for tensor in self._inputs(each)]
        kept = {tensor.name: tensor for each, tensor in read if self._keeps(each, tensor)}
        in_memory = set(kept)
        for operation in self.operations:
            if operation.type in FLOPS or operation.type in POOLINGS:
                in_memory.update(tensor.name for tensor in (*self._inputs(operation), *operation.outputs))
            elif operation.type == "Placeholder":
                in_memory.add(operation.outputs[0].name)
        costs = tuple(self._cost(operation, in_memory) for operation in self.operations)
        forward = [each for each in self.operations if each.name in self.forward]
        largest = max(_bytes(tensor) for each in forward for tensor in each.outputs if tensor.name in in_memory)
        return Cost(costs, sum(_bytes(tensor) for tensor in kept.values()), 2 * largest)

    def _inputs(self, operation: tf.Operation) -> list[Tensor]:
        return list({tensor.ref(): tensor for tensor in map(_origin, operation.inputs)}.values())

    def _keeps(self, reader: tf.Operation, tensor: Tensor) -> bool:
        """Returns whether the backward half reads a tensor of the forward half that is not a weight."""
        crosses = tensor.op.name in self.forward and reader.name not in self.forward
        return crosses and tensor.op.type not in WEIGHTS

    def _cost(self, operation: tf.Operation, in_memory: set[str]) -> Operation:
        if operation.type not in FLOPS and any(word in operation.type for word in UNKNOWN):
            raise ValueError(f"A plan cannot count the cost of this kind of operation. Received: {operation.type}")
        tensors = [*self._inputs(operation), *operation.outputs] if operation.type != "Placeholder" else []
        traffic = sum(_bytes(tensor) for tensor in tensors if tensor.name in in_memory)
        if operation.type not in FLOPS:
            return Operation(0, traffic, "")
        return Operation(FLOPS[operation.type](operation), traffic, operation.outputs[0].dtype.name)


@dataclasses.dataclass(frozen=True)
class Memory:
    """Memory that a training step needs on a device, in bytes.

    Attributes:
        weights: weights of the classifier, including statistics of normalisation, and of static source models.
        gradients: gradients with respect to the trained weights.
        optimizer: variables of the optimizer: momentum, moving averages of the weights, accumulated gradients.
        method: what the method keeps from step to step: perturbations, queues.
        activations: `Cost.kept` plus `Cost.workspace` of the pass that needs most.
        available: all memory of the device.
        batch_size: number of images of a batch on the device.
    """

    weights: int
    gradients: int
    optimizer: int
    method: int
    activations: int
    available: float
    batch_size: int

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return self.weights + self.gradients + self.optimizer + self.method + self.activations

    @property
    def largest_batch(self) -> int:
        """Largest number of images per device that fit; 0 if not even one fits."""
        fixed = self.weights + self.gradients + self.optimizer
        per_image = (self.activations + self.method) / self.batch_size
        return max(0, math.floor((USABLE * self.available - fixed) / per_image))


def memory_of(model: RobustModel, costs: Iterable[Cost], batch_size: int, available: float) -> Memory:
    """Returns the memory that a training step needs.

    Args:
        model: a compiled model whose optimizer is built.
        costs: costs of the passes of the step.
        batch_size: number of images of a batch on the device.
        available: memory of the device in bytes.
    """
    images = np.broadcast_to(np.float32(0), (batch_size, *image_shape(model.classifier)))  # only the shape matters
    state: dict[str, tuple[tuple[int, ...], str]] = {}
    if isinstance(model, KeepsReplicaState):
        state = model.replica_state_specs(images, np.broadcast_to(np.int64(0), batch_size))
    return Memory(
        weights=bytes_of(model.variables),
        gradients=bytes_of(model.trainable_variables),
        optimizer=bytes_of(model.optimizer.variables),
        method=sum(math.prod(shape) * tf.as_dtype(dtype).size for shape, dtype in state.values()),
        activations=max(cost.kept + cost.workspace for cost in costs),
        available=available,
        batch_size=batch_size,
    )


def bytes_of(variables: Iterable[Any]) -> int:
    """Returns the size of variables in bytes."""
    return sum(math.prod(variable.shape) * tf.as_dtype(variable.dtype).size for variable in variables)

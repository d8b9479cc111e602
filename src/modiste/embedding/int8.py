"""int8 weights of matmuls in an OpenVINO program.

nncf's post-training quantisation was measured instead: cosine 0.88 to torch's embeddings on real photos, where this one
has 0.9993 (ViT-B/32), and at most a quarter faster than OpenVINO in bf16 (benchmarks/README.md). Its `compress_weights`
quantises token embeddings, too, and sends telemetry.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

import modiste.utils.openvino  # noqa: F401  before openvino: no telemetry
from modiste.errors import ModisteError

if TYPE_CHECKING:
    from openvino import Model

# OpenVINO's names of what has weights.
WEIGHTED = ("MatMul", "Convolution", "GroupConvolution")
# Activations that share a scale (larger groups are hardly faster), and the smallest group that pays.
# OpenVINO asks for multiples of 16.
INT8_GROUP, SMALLEST_GROUP = 128, 32


def quantise_weights(program: Model) -> int:
    """Quantise matmul weights to int8 in place, with one scale per output: w ≈ int8 · max|w| / 127.

    Matmuls whose inputs `SMALLEST_GROUP` does not divide stay as they are, and so do convolutions and token embeddings.

    Returns:
        Size of the groups of activations that share a scale: it divides the inputs of all these products.

    Raises:
        ModisteError: Convolutions have more weights than these products.
    """
    from openvino import opset13 as ops

    group, multiplied, convolved = INT8_GROUP, 0, 0
    for node in program.get_ordered_ops():
        source = node.input_value(1).get_node() if node.get_type_name() in WEIGHTED else None
        if source is None or source.get_type_name() != "Constant":
            continue  # not of weights, but of two activations
        weights = source.get_data()
        if node.get_type_name() != "MatMul":
            convolved += weights.size
            continue
        inputs = 1 if node.get_attributes()["transpose_b"] else 0
        if weights.ndim != 2 or weights.shape[inputs] % SMALLEST_GROUP:
            continue
        largest = np.abs(weights).max(inputs, keepdims=True)
        scale = np.where(largest > 0, largest, 1).astype(np.float32) / 127
        rounded = ops.convert(ops.constant(np.rint(weights / scale).astype(np.int8)), "f32")
        node.input(1).replace_source_output(ops.multiply(rounded, ops.constant(scale)).output(0))
        group, multiplied = math.gcd(group, weights.shape[inputs]), multiplied + weights.size
    if multiplied <= convolved:
        raise ModisteError("precision=int8 quantises matmuls, and this tower has few: set precision=bf16 or fp32.")
    return group

"""int8 weight quantisation of the matmuls in an OpenVINO model.

Measured (benchmarks/README.md): a cosine of 0.9993 to torch's embeddings for a ViT-B/32 with random weights. nncf's
post-training quantisation was measured on another network, EfficientNet-Lite0, so that the figures do not compare them:
0.88 on real photos, at most a quarter faster than OpenVINO in bf16. Not measured: nncf's `compress_weights`, which also
quantises token embeddings and sends telemetry, and torchao.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

import modiste.utils.openvino  # noqa: F401  before openvino: no telemetry
from modiste.errors import ModisteError

if TYPE_CHECKING:
    from openvino import Model

# OpenVINO's operators with weights.
WEIGHTED = ("MatMul", "Convolution", "GroupConvolution")
# Activations that share a scale (larger groups are hardly faster), and the smallest group that is worth it.
# OpenVINO requires multiples of 16.
INT8_GROUP, SMALLEST_GROUP = 128, 32


def quantise_weights(program: Model) -> int:
    """Quantise matmul weights to int8 in place, with one scale per output: w ≈ int8 · max|w| / 127.

    Matmuls whose number of inputs is not a multiple of `SMALLEST_GROUP`, convolutions and token embeddings stay as they
    are.

    Args:
        program: An OpenVINO model.

    Returns:
        Size of the groups of activations that share a scale; it divides the number of inputs of all quantised matmuls.

    Raises:
        ModisteError: Convolutions have at least as many weights as the quantised matmuls.
    """
    from openvino import opset13 as ops

    group, multiplied, convolved = INT8_GROUP, 0, 0
    for node in program.get_ordered_ops():
        source = node.input_value(1).get_node() if node.get_type_name() in WEIGHTED else None
        if source is None or source.get_type_name() != "Constant":
            continue  # a product of two activations
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

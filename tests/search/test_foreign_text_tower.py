"""The exported text tower of somebody else's index."""

import logging

import numpy as np
import pytest

from modiste.search.encoder import TextTower
from modiste.utils.atomic import quick_digest, write_checked

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def tower(location):
    """A program that adds weights from a file."""
    from onnx import TensorProto, helper

    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    weights.dims.append(4)
    for key, value in (("location", str(location)), ("offset", "0"), ("length", "16")):
        weights.external_data.add(key=key, value=value)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model.SerializeToString()


@pytest.mark.parametrize("place", ["../secret.bin", "{absolute}", "link.bin"])
def test_weights_outside_of_the_index_are_refused(place, tmp_path, caplog):
    """They would be what a search answers with; torch embeds the queries instead."""
    folder, secret = tmp_path / "text", tmp_path / "secret.bin"
    folder.mkdir()
    np.arange(4, dtype=np.float32).tofile(secret)
    (folder / "link.bin").symlink_to(secret)
    content = tower(place.format(absolute=secret))
    write_checked(folder / "tower.onnx", lambda path: path.write_bytes(content), quick_digest)
    settings = '{"kind": "hash", "buckets": 9, "max_length": 4}'
    write_checked(folder / "tokenizer_settings.json", lambda path: path.write_text(settings), quick_digest)
    with caplog.at_level(logging.WARNING):
        assert TextTower.read(folder) is None
    assert "is not used: torch embeds the queries" in caplog.text

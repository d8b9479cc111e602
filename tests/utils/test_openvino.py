"""OpenVINO reads its own format only."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("openvino")

from modiste.utils.openvino import NET, read_model


def test_another_format_under_the_name_of_its_own_is_refused(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Abs", ["x"], ["y"])], "g", [value], [value])
    file = tmp_path / "image.xml"
    file.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    with pytest.raises(ValueError, match=r"image\.xml is not OpenVINO IR"):
        read_model(file)


@pytest.mark.parametrize(
    ("head", "own"),
    [
        (b'<?xml version="1.0"?>\n<net name="x" version="11">', True),
        (b"\xef\xbb\xbf<net>", True),
        (b"<network>", False),
        (b"\n<net>", False),
        (b" <?xml version='1.0'?><net>", False),
        (b"\x08\x08<net>", False),
        (b"", False),
    ],
)
def test_how_a_file_of_its_own_begins(head: bytes, own: bool) -> None:
    assert bool(NET.match(head)) is own

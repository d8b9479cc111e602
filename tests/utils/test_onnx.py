"""External data of ONNX programs: next to the program, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modiste.utils import onnx

onnx_package = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper  # noqa: E402

WEIGHTS = np.array([3.0, 1.0, 4.0, 1.0], np.float32)


def tensor(location: str, **more: str) -> TensorProto:
    made = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **more}.items():
        made.external_data.add(key=key, value=value)
    return made


def program(weights: TensorProto, place: str = "initializer") -> bytes:
    """``y = x + w``, with ``w`` where a program may have it."""
    value = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy"}
    add = helper.make_node("Add", ["x", "w"], ["y"])
    constant = helper.make_node("Constant", [], ["w"], value=weights)
    if place == "branch":
        branch = helper.make_graph([constant, add], "g", [], [value["y"]])
        add = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    nodes = [constant, add] if place == "constant" else [add]
    graph = helper.make_graph(nodes, "g", [value["x"]], [value["y"]], [weights] if place == "initializer" else [])
    functions = [helper.make_function("f", "F", [], ["w"], [constant], [helper.make_opsetid("", 13)])]
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8,
        functions=functions if place == "function" else [],
    )  # fmt: skip
    return model.SerializeToString()


def answer(model: Path | bytes) -> list[float]:
    return onnx.session(model, onnx.options(threads=1)).run(None, {"x": np.zeros(4, np.float32)})[0].tolist()


def test_weights_in_the_program_and_in_a_file_next_to_it(tmp_path: Path) -> None:
    inner = onnx_package.numpy_helper.from_array(WEIGHTS, "w")
    assert answer(program(inner)) == WEIGHTS.tolist()
    (tmp_path / "image.onnx.data").write_bytes(WEIGHTS.tobytes())
    file = tmp_path / "image.onnx"
    file.write_bytes(program(tensor("image.onnx.data", offset="0", length="16")))
    assert answer(file) == WEIGHTS.tolist()


@pytest.mark.parametrize("place", ["initializer", "constant", "branch", "function"])
@pytest.mark.parametrize(
    "location", ["*/_ORT_MEM_ADDR_/*", "../outside", "/etc/hostname", "sub/../../outside", "missing", ""]
)
def test_weights_elsewhere_are_refused(tmp_path: Path, place: str, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "outside").write_bytes(bytes(16))
    file = folder / "image.onnx"
    file.write_bytes(program(tensor(location, offset="0", length="16"), place))
    with pytest.raises(ValueError, match="which is not a file next to it"):
        onnx.check(file)


def test_the_content_alone_names_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("w").write_bytes(WEIGHTS.tobytes())
    with pytest.raises(ValueError, match="which is not a file next to it"):
        onnx.session(program(tensor("w")), onnx.options())


@pytest.mark.parametrize("content", [b"", b"\x3a", b"\x3a\x7f", b"<net/>", b"\xff" * 20, b"\x0b"])
def test_what_is_no_program_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.onnx"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="it is"):
        onnx.check(file)


def varint(number: int) -> bytes:
    lowest, rest = number & 127, number >> 7
    return bytes([lowest | 128]) + varint(rest) if rest else bytes([lowest])


def with_graph_as(tag: bytes, weights: TensorProto) -> bytes:
    """A program whose graph stands behind another tag."""
    model = onnx_package.load_from_string(program(weights))
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    return model.SerializeToString() + tag + varint(len(graph)) + graph


WIDE = varint((7 << 3 | 2) | 1 << 32)
"""The graph's tag to a reader that drops what is above 32 bits, as C++'s does."""


@pytest.mark.parametrize(
    "tag", [WIDE, varint((7 << 3 | 2) | 1 << 64), varint(99 << 3 | 2), varint(7 << 3 | 3), varint(7 << 3 | 1)]
)
def test_a_graph_that_another_reader_would_see_is_refused(tmp_path: Path, tag: bytes) -> None:
    file = tmp_path / "image.onnx"
    file.write_bytes(with_graph_as(varint(7 << 3 | 2), onnx_package.numpy_helper.from_array(WEIGHTS, "w")))
    assert answer(file) == WEIGHTS.tolist()
    file.write_bytes(with_graph_as(tag, tensor("../outside", offset="0", length="16")))
    with pytest.raises(ValueError, match=r"not a protobuf message|not ONNX"):
        onnx.check(file)


def test_the_fields_of_each_message_are_those_of_onnx() -> None:
    """A field that a new version of ONNX adds belongs into one of the two tables."""
    for name in onnx.MESSAGES:
        described = getattr(onnx_package, name).DESCRIPTOR.fields
        inner = {field.number: field.message_type.name for field in described if field.message_type}
        followed = {number: kind for number, kind in inner.items() if kind in onnx.MESSAGES}
        if name != "TensorProto":  # whose metadata names no file
            followed = {number: kind for number, kind in followed.items() if kind != "StringStringEntryProto"}
        else:
            del followed[16]
        assert onnx.MESSAGES[name] == followed
        assert onnx.OTHERS[name] == {field.number for field in described} - set(followed)


def test_a_program_in_another_format_is_not_guessed(tmp_path: Path) -> None:
    """ONNX Runtime's own format, which `check` does not read, would be recognised by its content."""
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "x.ort")
    inner = onnx_package.numpy_helper.from_array(WEIGHTS, "w")
    ort.InferenceSession(program(inner), settings, providers=["CPUExecutionProvider"])
    content = (tmp_path / "x.ort").read_bytes()
    assert ort.InferenceSession(content, providers=["CPUExecutionProvider"]).get_inputs()[0].name == "x"
    with pytest.raises(ort.capi.onnxruntime_pybind11_state.InvalidProtobuf):
        ort.InferenceSession(content, onnx.options(), providers=["CPUExecutionProvider"])

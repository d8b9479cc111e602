"""Every backend gives torch's embeddings, for any batch size and text length, or is refused or passed over."""

import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import modiste
from helpers.tiny_models import narrow_two_tower as model
from modiste.embedding import backends
from modiste.embedding.backends import Tower, check_name, choose
from modiste.errors import ModisteError
from modiste.utils.atomic import SUFFIX
from modiste.utils.hardware import has_bf16
from modiste.utils.openvino import compress_weights, core

needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="the extra 'openvino' is not installed")
TEXTS = ["a red dress with long sleeves", "jeans", "a shoe for running", "bag", "two words"]


def pixels(count):
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("compile", "test_efficientnet"),
        ("onnxruntime", "test_efficientnet"),
        ("onnxruntime", "test_vit"),
        ("openvino", "test_efficientnet"),
        ("openvino", "test_vit"),
    ],
)
def test_embeddings_are_torchs_for_other_sizes_than_the_examples(name, image):
    built = model(image)
    taken, encode = choose(Tower(built, "image", pixels(3)), name, min_cosine=0.9999)
    assert taken == name
    for count in (1, 5, 21):  # 21: several parts of a batch, the last one smaller
        torch.testing.assert_close(encode(pixels(count)), built.encode_image(pixels(count)), rtol=1e-3, atol=1e-4)
    _, encode = choose(Tower(built, "text", built.tokenizer(TEXTS[:3])), name, min_cosine=0.9999)
    for texts in (TEXTS[:1], TEXTS[3:], TEXTS):
        tokens = built.tokenizer(texts)
        torch.testing.assert_close(encode(tokens), built.encode_text(tokens), rtol=1e-3, atol=1e-4)


def counted(made, name, make):
    """A backend that notes that it was made."""

    def factory(tower, precision):
        made.append(f"{name}-{precision}")
        return make(tower)

    return factory


@pytest.fixture
def fakes(monkeypatch):
    """Backends of known speed; what they were made for."""
    made = []

    def broken(tower):
        raise RuntimeError("cannot export")

    makers = {
        "torch": lambda tower: tower.encode,
        "far": lambda tower: lambda inputs: -tower.encode(inputs),
        "nan": lambda tower: lambda inputs: tower.encode(inputs) * float("nan"),
        "broken": broken,
        "good": lambda tower: lambda inputs: tower.encode(inputs) * 1.0,
        "slow": lambda tower: lambda inputs: tower.encode(inputs) * 1.0,
    }
    speeds = iter([1.0, 10.0, 0.5, 20.0, 30.0, 0.1])
    monkeypatch.setattr(backends, "BACKENDS", {name: counted(made, name, make) for name, make in makers.items()})
    monkeypatch.setattr(backends, "has_bf16", lambda: False)
    monkeypatch.setattr(backends, "rate", lambda tower, encode: next(speeds))
    return made


def test_auto_takes_the_fastest_that_is_near_enough_and_says_why_not_the_others(fakes, caplog):
    tower = Tower(model(), "image", pixels(3))
    with caplog.at_level("INFO", "modiste.embedding.backends"):
        assert choose(tower, "auto", 0.99)[0] == "good"
    for words in (
        "far: skipped: backend=far is too far from torch: cosine -1",
        "nan: skipped",
        "cannot export",
    ):
        assert words in caplog.text


def test_a_backend_has_to_be_faster_by_more_than_the_noise_of_a_probe(fakes, monkeypatch):
    for won, taken in ((1.09, "torch"), (1.11, "good")):
        speeds = iter([1.0, won, *[0.1] * 9])
        monkeypatch.setattr(backends, "rate", lambda tower, encode, speeds=speeds: next(speeds))
        assert choose(Tower(model(), "image", pixels(3)), "auto", 0.99)[0] == taken


def test_a_backend_that_is_named_is_refused_for_what_auto_passes_over(fakes):
    tower = Tower(model(), "image", pixels(3))
    with pytest.raises(ModisteError, match=r"too far from torch: cosine -1.*min_cosine.image=0.99. Use backend=torch"):
        choose(tower, "far", 0.99)
    with pytest.raises(ModisteError, match="too far from torch: cosine nan"):
        choose(tower, "nan", 0.99)
    with pytest.raises(ModisteError, match=r"cannot run the image tower: cannot export Use backend=torch"):
        choose(tower, "broken", 0.99)


def test_bf16_is_tried_only_where_the_processor_computes_in_it(fakes, monkeypatch):
    tower = Tower(model(), "image", pixels(3))
    monkeypatch.setattr(backends, "has_bf16", lambda: True)
    assert choose(tower, "auto", 0.99)[0] == "good-bf16"  # the fifth that is timed
    assert "torch-bf16" in fakes
    assert {name.partition("-")[2] for name in fakes[: fakes.index("torch-bf16")]} == {"fp32"}


def test_of_two_that_are_as_fast_within_the_noise_the_more_exact_is_taken(fakes, monkeypatch):
    monkeypatch.setattr(backends, "has_bf16", lambda: True)
    speeds = iter([1.0, 5.0, 5.4, *[1.0] * 9])  # torch, good, slow, those in bf16
    monkeypatch.setattr(backends, "rate", lambda tower, encode: next(speeds))
    assert choose(Tower(model(), "image", pixels(3)), "auto", 0.99)[0] == "good"


def test_openvino_sends_no_telemetry():
    """It would on import and in every conversion, from a forked process; not where openvino_telemetry is missing."""
    pytest.importorskip("openvino")
    code = "import modiste.utils.openvino, sys, openvino.tools.ovc, nncf; print(sys.modules['openvino_telemetry'])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "None\n"


def test_whatever_uses_openvino_has_imported_the_module_that_turns_telemetry_off():
    sources = {path: path.read_text(encoding="utf-8") for path in Path(modiste.__file__).parent.rglob("*.py")}
    users = {
        path.stem: text for path, text in sources.items() if re.search(r"^\s*(import|from) (openvino|nncf)", text, re.M)
    }
    assert {"backends", "openvino"} <= set(users)
    for name, text in users.items():
        assert name == "openvino" or re.search(r"^from modiste\.utils\.openvino import", text, re.M), name


def test_int8_is_of_openvino_and_tried_last():
    assert backends.candidates("image")[-1] == backends.candidates("text")[-1] == "openvino-int8"
    with pytest.raises(ModisteError, match="precision=int8 needs backend=openvino, not torch"):
        choose(Tower(model(), "image", pixels(3)), "torch-int8", 0.9)
    with pytest.raises(ModisteError, match="precision=int4 is not known: choose fp32, bf16 or int8"):
        check_name("openvino", "int4")


@needs_openvino
def test_int8_is_of_matmuls_and_embeddings_whatever_their_width_and_not_of_convolutions(capsys):
    import openvino as ov

    class Mixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.convolution = torch.nn.Embedding(50, 48), torch.nn.Conv1d(48, 48, 3)
            self.wide, self.odd = torch.nn.Linear(48, 500), torch.nn.Linear(500, 30)

        def forward(self, tokens):
            hidden = self.convolution(self.table(tokens).transpose(1, 2)).mean(2)
            return self.odd(torch.relu(self.wide(hidden)))

    torch.manual_seed(0)
    net, tokens = Mixed().eval(), torch.randint(0, 50, (6, 9))
    program = ov.convert_model(net, example_input=tokens)
    compress_weights(program)
    kinds = {(port.get_node().get_type_name(), next(iter(port.get_node().get_output_shape(0)), 0))
             for port in int8_constants(program)}  # fmt: skip
    assert kinds == {("Constant", 50), ("Constant", 500), ("Constant", 30)}
    result = torch.from_numpy(core().compile_model(program, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(tokens)[0])
    cosine = torch.nn.functional.cosine_similarity(result, net(tokens))
    assert 0.999 < cosine.min() < 1.0
    assert capsys.readouterr().out == "", "nothing between the rows of format=csv"


def int8_constants(program):
    """Outputs of the constants in int8 of a program."""
    nodes = [node for node in program.get_ops() if node.get_type_name() == "Constant"]
    return [node.output(0) for node in nodes if node.get_output_element_type(0).get_type_name() == "i8"]


@needs_openvino
def test_a_tower_of_convolutions_has_no_int8():
    with pytest.raises(ModisteError, match=r"precision=int8 quantises matmuls.*set precision=bf16 or fp32"):
        choose(Tower(model(), "image", pixels(3)), "openvino-int8", 0.9)


@needs_openvino
@pytest.mark.slow
def test_int8_is_near_torch_for_other_sizes_than_the_examples_and_no_other_precision():
    built = model("test_vit", hidden=64)
    for tower, inputs in (
        (Tower(built, "image", pixels(3)), [pixels(count) for count in (1, 21)]),
        (Tower(built, "text", built.tokenizer(TEXTS[:3])), [built.tokenizer(part) for part in (TEXTS[3:], TEXTS)]),
    ):
        encode = choose(tower, "openvino-int8", min_cosine=0.995)[1]
        same_hint = choose(tower, "openvino-bf16" if has_bf16() else "openvino", min_cosine=0.995)[1]
        for others in inputs:
            ours, torchs = encode(others), tower.encode(others)
            assert torch.nn.functional.cosine_similarity(ours, torchs).min().item() > 0.995
            assert not torch.equal(ours, same_hint(others))


@needs_openvino
def test_auto_takes_int8_where_it_is_fastest(monkeypatch):
    monkeypatch.setattr(backends, "BACKENDS", {name: lambda tower, _: tower.encode for name in ("torch", "openvino")})
    monkeypatch.setattr(backends, "has_bf16", lambda: False)
    speeds = iter([1.0, 2.0, 3.0])
    monkeypatch.setattr(backends, "rate", lambda tower, encode: next(speeds))
    assert choose(Tower(model(), "image", pixels(3)), "auto", 0.99)[0] == "openvino-int8"


@needs_openvino
def test_advice_for_int8_can_be_followed(monkeypatch):
    monkeypatch.setitem(backends.BACKENDS, "openvino", lambda tower, _: lambda inputs: -tower.encode(inputs))
    with pytest.raises(ModisteError, match=r"too far from torch.*Use precision=bf16 or fp32"):
        choose(Tower(model(), "image", pixels(3)), "openvino-int8", 0.9)


@needs_openvino
@pytest.mark.slow
def test_signals_are_heard_after_two_programs_of_openvino_have_gone():
    """In a process of its own: OpenVINO's stack for signals may not be one that is gone (it was, with a Core each)."""
    script = """
import gc, os, signal
from helpers.tiny_models import narrow_two_tower as model, pixels
from modiste.embedding.backends import Tower, choose
tower = Tower(model("test_vit"), "image", pixels(3))
first, second = choose(tower, "openvino", 0.99), choose(tower, "openvino", 0.99)
del first
gc.collect()
del second
gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("heard"))
os.kill(os.getpid(), signal.SIGUSR1)
"""
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    command, environment = [sys.executable, "-c", script], {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr[-500:])
    assert "heard" in done.stdout


def test_the_check_sees_another_size_than_the_examples(monkeypatch):
    """A program that is right for the traced batch only is refused."""

    def traced(tower, precision):
        count = len(tower.example)
        return lambda inputs: tower.encode(inputs) * (1 if len(inputs) == count else -1)

    monkeypatch.setitem(backends.BACKENDS, "compile", traced)
    with pytest.raises(ModisteError, match="too far from torch"):
        choose(Tower(model(), "image", pixels(4)), "compile", 0.99)


@pytest.mark.parametrize("image", ["test_efficientnet", "test_vit"])
def test_channels_last_gives_torchs_embeddings_and_leaves_the_model_alone(image):
    built = model(image)
    strides = [p.stride() for p in built.parameters()]
    _, encode = choose(Tower(built, "image", pixels(3)), "channels_last", min_cosine=0.9999)
    count = backends.CHUNK + 3
    torch.testing.assert_close(encode(pixels(count)), built.encode_image(pixels(count)), rtol=1e-3, atol=1e-4)
    assert [p.stride() for p in built.parameters()] == strides


def test_autocast_of_bf16_is_near_float32_but_not_equal():
    built = model()
    _, encode = choose(Tower(built, "image", pixels(3)), "torch-bf16", min_cosine=0.99)
    ours, torchs = encode(pixels(5)), built.encode_image(pixels(5))
    assert ours.dtype == torch.float32
    assert not torch.equal(ours, torchs)
    torch.testing.assert_close(ours, torchs, rtol=0.1, atol=0.05)


def test_padding_on_either_side_is_cut_and_nothing_else():
    mask = torch.tensor([[0, 0, 1, 1, 0], [0, 1, 1, 0, 0]])
    ids = torch.arange(10).view(2, 5)
    cut = backends.without_padding({"input_ids": ids, "attention_mask": mask})
    assert cut["input_ids"].tolist() == [[1, 2, 3], [6, 7, 8]]
    assert backends.without_padding({"input_ids": ids})["input_ids"].shape == (2, 5)
    assert backends.without_padding({"input_ids": ids, "attention_mask": mask * 0})["input_ids"].shape == (2, 1)


def test_a_backend_that_is_unknown_or_not_installed_is_one_sentence(monkeypatch):
    with pytest.raises(ModisteError, match="Did you mean 'openvino'"):
        check_name("openvin")
    monkeypatch.setattr(backends, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(ModisteError, match=r"needs onnxscript: pip install 'modiste\[onnx\]'"):
        check_name("onnxruntime")
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    with pytest.raises(ModisteError, match=r"pip install 'modiste\[openvino\]'"):
        check_name("openvino")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_the_model_answers_while_it_is_converted(name):
    """`modiste serve` converts in the background."""
    pytest.importorskip(name)
    built = model()
    with torch.inference_mode():
        wanted = built.encode_image(pixels(2))
    weights, answers, done = set(), [], threading.Event()

    @torch.inference_mode()
    def ask():
        while not done.is_set():
            weights.update(type(weight) for weight in built.parameters())
            answers.append(built.encode_image(pixels(2)))

    with ThreadPoolExecutor() as pool:
        asked = pool.submit(ask)
        try:
            choose(Tower(built, "image", pixels(3)), name, 0.9999)
        finally:
            done.set()
        asked.result()
    assert weights == {torch.nn.Parameter}
    assert len(answers) > 10
    for answer in answers:
        torch.testing.assert_close(answer, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_tower_is_converted_once_for_the_same_weights_and_normalisation(name, tmp_path, monkeypatch):
    pytest.importorskip(name)
    built = model()

    def tower(fingerprint="a"):
        return Tower(built, "image", pixels(3), tmp_path, fingerprint)

    def programs():
        return [file for file in tmp_path.iterdir() if file.suffix != SUFFIX]

    before = choose(tower(), name, 0.9999)[1](pixels(4))
    assert len(programs()) == 1
    with monkeypatch.context() as patch:
        patch.setattr(torch.onnx, "export", lambda *_, **__: pytest.fail("converted again"))
        patch.setattr(torch.jit, "trace", lambda *_, **__: pytest.fail("converted again"))
        torch.testing.assert_close(choose(tower(), name, 0.9999)[1](pixels(4)), before, rtol=1e-5, atol=1e-6)
    assert tower("b").kept(name) != tower().kept(name)
    built.preprocess = replace(built.preprocess, mean=(0.1, 0.2, 0.3))
    choose(tower(), name, 0.9999)  # the kept program would be too far
    assert len(programs()) == 2

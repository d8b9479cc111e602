"""The card says what the run knows, in metadata that huggingface_hub reads back."""

import ast
import json

import pytest
import yaml

from helpers.tiny_export import described_run
from helpers.tiny_models import two_tower
from modiste.config import compose
from modiste.errors import ModisteError
from modiste.export import card, export
from modiste.export.inputs import Inputs, synthetic
from modiste.utils.run_dir import RunDir

INPUTS = synthetic(4)
VALUE = {"value": 0.5954, "low": 0.57, "high": 0.62, "n": 1200}
RESULT = {
    "schema": 1, "task": "retrieval", "data": "synthetic", "split": "test", "primary": "t2i/mrr", "summary": [],
    "metrics": {"t2i/mrr": VALUE, "i2t/mrr": VALUE}, "counts": {"t2i/queries": 1200, "t2i/relevant": 7},
    "protocol": {"ties": "by index", "seed": 0},
    "model": {"name": "demo", "fingerprint": "f" * 64, "in_domain": True},
}  # fmt: skip
FACTS = {
    "format": "hub", "precision": "fp32", "fingerprint": "f" * 64, "embed_dim": 16, "modiste": "1", "warnings": [],
    "preprocess": {"resize": "pad", "interpolation": "bicubic", "size": 32, "crop_pct": 1.0, "mean": [0.5], "std": [1]},
    "tokenizer": {"kind": "words", "max_length": 64}, "inputs": "4 synthetic garments",
    "cosine": {"image": {"min": 0.9999, "mean": 1.0}, "text": {"min": 1.0, "mean": 1.0}},
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    run = described_run(tmp_path / "run", "experiment=demo")
    run.write_json("cost", {"seconds": 180.0, "pairs": 28000, "energy_kwh": 0.004, "co2e_kg": 0.0016, "country": "FRA"})
    run.write_json(
        "environment",
        {"processor": "A CPU", "cores": 2, "command": "modiste train hydra.run.dir=/home/me/runs/demo experiment=demo"},
    )
    (run.results / "synthetic.test.retrieval.json").write_text(json.dumps(RESULT))
    return run


def written(folder, run, given=None, repo_id=""):
    folder.mkdir()
    card.write_card(folder, run, FACTS, INPUTS, given or {}, repo_id)
    text = (folder / "README.md").read_text()
    return text, yaml.safe_load(text.split("---")[1])


def test_the_card_of_a_run_says_data_recipe_results_with_intervals_cost_and_licences(run, tmp_path):
    text, head = written(tmp_path / "out", run, {"licence": "apache-2.0"}, "somebody/demo")
    for words in (
        "# demo", "modiste train experiment=demo\n", "| t2i/mrr | 0.595 | [0.570, 0.620] | 1,200 |", "in-domain",
        "1,200 t2i/queries", "28,000", "3 min 0 s", "1.6 g, electricity of: FRA", "A CPU, 2 cores", "`{text}`",
        'HubModel.from_pretrained("somebody/demo")', "| image encoder | none: trained from scratch",
        "synthetic garments",
        "| image | 0.999900 | 1.000000 |", "![",
    ):  # fmt: skip
        assert words in text, words
    assert "i2t/mrr" not in text
    assert head["license"] == "apache-2.0"
    assert head["pipeline_tag"] == "zero-shot-image-classification"
    assert head["co2_eq_emissions"] == {
        "emissions": 1.6, "source": "codecarbon", "training_type": "pre-training", "geographical_location": "FRA",
        "hardware_used": "A CPU, 2 cores",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], "pre-training"),
        (["init=other"], "fine-tuning"),
        (["image=lite"], "fine-tuning"),
        (["text=hf"], "fine-tuning"),
        (["text=hf", "+text.pretrained=false"], "pre-training"),
        (["model=open_clip", "model.source=ViT-B-32", "model.pretrained=laion2b_s34b_b79k"], "fine-tuning"),
        (["model=open_clip", "model.source=ViT-B-32", "model.pretrained=random"], "pre-training"),
    ],
)
def test_weights_that_existed_before_make_it_fine_tuning(overrides, expected):
    assert card.training_type(compose("train", ["experiment=demo", *overrides])) == expected


@pytest.mark.parametrize("format", sorted(set(card.USE) - {"transformers_js"}))
def test_the_code_of_a_card_defines_every_name_that_it_uses(format):
    code = card.USE[format].format(name='"DIR"', open_clip='"local-dir:DIR"', size=32, dim=16, dtype="fp32", trust="")
    nodes = list(ast.walk(ast.parse(code)))
    names = [node for node in nodes if isinstance(node, ast.Name)]
    imports = [node for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))]
    known = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    known |= {alias.name for node in imports for alias in node.names}
    assert {node.id for node in names} - known <= {"print"}


HOSTILE = (
    "x\n---\n# head\n\n```\n<script>alert(1)</script><img src=x onerror=y>\n[l](http://e) ![i](http://e) <http://e>\n"
    "| a | b |\n`c` ``` **b** __b__ ~~~\n- i\n[r]: http://e\n"
)


def structure(text):
    """What a card is made of, but its words."""
    parser = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable(["table", "strikethrough"])
    found = []
    for token in parser.parse(text.split("\n---\n", 1)[1]):
        children = [(child.type, child.attrs.get("src")) for child in token.children or () if child.type != "text"]
        found += children if token.type == "inline" else [(token.type, token.tag, token.info)]
    return found


def write_with(text, run, folder):
    """The card of a run of which every text that a file may name is ``text``."""
    config = yaml.safe_load(run.config.read_text())
    config["name"] = config["data"]["name"] = text
    config["data"]["captions"]["templates"] = [text, text]
    for node in (config["model"]["image"], config["model"]["text"], config["data"]["split"]):
        node.update({key: text for key in ("_target_", "name") if key in node})
    run.config.write_text(yaml.safe_dump(config))
    run.write_json("cost", run.read_json("cost") | {"country": text, "price": text, "currency": text})
    run.write_json("environment", {"processor": text, "cores": text, "command": text})
    result = RESULT | {"data": text, "task": text, "split": text, "primary": text, "metrics": {text: VALUE},
                       "counts": {f"{text} queries": 3}, "variant": text,
                       "protocol": {"ties": text, "corruptions": text}}  # fmt: skip
    (run.results / "synthetic.test.retrieval.json").write_text(json.dumps(result))
    facts = FACTS | {"inputs": text, "warnings": [text], "modiste": text, "fingerprint": text, "precision": text}
    folder.mkdir()
    card.write_card(folder, run, facts, INPUTS, {}, "")
    return (folder / "README.md").read_text()


def test_a_card_of_hostile_texts_has_the_structure_of_any_other(run, tmp_path):
    plain, hostile = (write_with(text, run, tmp_path / name) for name, text in (("a", "text"), ("b", HOSTILE)))
    assert structure(hostile) == structure(plain)
    assert not {kind[0] for kind in structure(hostile)} & {"html_block", "html_inline", "link_open", "hr"}
    assert yaml.safe_load(hostile.split("\n---\n")[0].strip("-"))["model-index"][0]["name"] == HOSTILE


def test_huggingface_hub_reads_the_results_of_the_card(run, tmp_path):
    from huggingface_hub import ModelCard

    written(tmp_path / "out", run)
    (found,) = ModelCard.load(tmp_path / "out" / "README.md").data.eval_results
    assert (found.metric_type, found.metric_value, found.dataset_name) == ("mrr", 0.5954, "synthetic")
    assert found.dataset_split == "test"


def test_variants_and_corrupted_images_are_named_in_the_card_and_its_metadata(run, tmp_path):
    from huggingface_hub import ModelCard

    thumbnails = {"protocol": {"corruptions": "Thumbnail(p=1.0)"}}
    for name, more in {"photo": {}, "corrupted_Thumbnail": thumbnails, "small": thumbnails}.items():
        content = RESULT | {"variant": name, "metrics": {"t2i/mrr": VALUE | {"value": 0.9}}} | more
        (run.results / f"synthetic.test.retrieval.{name}.json").write_text(json.dumps(content))
    text, _ = written(tmp_path / "out", run)
    titles = [line.split("**")[1] for line in text.splitlines() if line.startswith("**retrieval")]
    assert titles == [
        "retrieval on synthetic, test split",
        "retrieval on synthetic, test split, variant corrupted_Thumbnail, corrupted images",
        "retrieval on synthetic, test split, variant photo",
        "retrieval on synthetic, test split, variant small, corrupted images",
    ]
    assert text.count("Protocol: corruptions Thumbnail(p=1.0)") == 2
    found = ModelCard.load(tmp_path / "out" / "README.md").data.eval_results
    assert {(one.dataset_name, one.dataset_config, one.metric_value) for one in found} == {
        ("synthetic", None, 0.5954),
        (
            "synthetic (variant corrupted_Thumbnail, corrupted images)",
            "variant corrupted_Thumbnail, corrupted images",
            0.9,
        ),
        ("synthetic (variant photo)", "variant photo", 0.9),
        ("synthetic (variant small, corrupted images)", "variant small, corrupted images", 0.9),
    }


@pytest.mark.parametrize(
    ("counts", "about"),
    [
        ({"images": 1200, "parts/images": 900, "parts/values": 14}, "zero-shot; 1,200 images, 14 parts/values"),
        ({"rows": 3}, "zero-shot"),
        ({}, "zero-shot"),
        ({"t2i/queries": 7, "images": 9}, "zero-shot; 7 t2i/queries"),
    ],
)
def test_a_result_is_described_by_what_its_counts_name(counts, about, run, tmp_path):
    result = RESULT | {"task": "attributes", "counts": counts, "model": RESULT["model"] | {"in_domain": False}}
    (run.results / "synthetic.test.retrieval.json").write_text(json.dumps(result))
    assert f"**attributes on synthetic, test split** ({about})\n" in written(tmp_path / "out", run)[0]


def test_damaged_metadata_are_refused_by_the_hubs_own_reader(tmp_path):
    (tmp_path / "README.md").write_text("---\nmodel-index:\n- nonsense\n---\n")
    with pytest.raises((ValueError, TypeError, KeyError)):
        card.validate(tmp_path / "README.md")


def test_a_model_without_a_run_has_a_card_that_says_what_is_not_known(tmp_path):
    exported = export(two_tower(), "hub", tmp_path / "out", inputs=INPUTS, card={"languages": ["en", "de"]})
    text = (exported.path / "README.md").read_text()
    assert "was not evaluated" in text
    assert "Not recorded" in text
    assert yaml.safe_load(text.split("---")[1])["language"] == ["en", "de"]


def test_an_unknown_word_of_the_card_is_refused(tmp_path):
    with pytest.raises(ModisteError, match=r"card.license is not known. Did you mean 'licence'"):
        export(two_tower(), "hub", tmp_path / "out", inputs=INPUTS, card={"license": "mit"})
    assert not list(tmp_path.iterdir())


def test_pictures_of_the_data_are_shown_only_where_the_user_says_so(tmp_path):
    inputs = Inputs(INPUTS.images, INPUTS.texts, "4 products of mine")
    for name, given, shown in (("a", {}, "8 synthetic garments"), ("b", {"pictures": "own"}, "4 products of mine")):
        exported = export(two_tower(), "hub", tmp_path / name, inputs=inputs, card=given)
        text = (exported.path / "README.md").read_text()
        assert f"Sample inputs: {shown}" in text
        assert "language" not in yaml.safe_load(text.split("---")[1])  # nobody named any


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("modiste train data=kagl hydra.run.dir=x", "modiste train data=kagl"),
        ("curl -o ~/.bashrc http://x", ""), ("modiste --config-dir=x train", ""), ("modiste", ""), ("modiste 'a", ""),
    ],
)  # fmt: skip
def test_the_recipe_is_a_command_of_modistes(tmp_path, command, shown):
    (tmp_path / "environment.json").write_text(json.dumps({"command": command}))
    assert card.command_of(RunDir(tmp_path)) == shown

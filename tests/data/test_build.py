"""What a data node describes: captions are worded alike for every command."""

from omegaconf import OmegaConf

from helpers.tiny_data import inputs
from modiste.config import compose
from modiste.data.build import bind_captions, captions_of, load
from modiste.data.captions import Captions
from modiste.training.data import build_data

WORDS = [
    "data.catalogue.products=40", "data.catalogue.views=1", "data.catalogue.size=24", "~data.split.hold_out",
    "data.captions.templates=['a {colour} {category}']", "+data.captions.words.category={dress: gown}",
    "+data.captions.synonyms.category={dress: [frock]}",
]  # fmt: skip


def test_captions_of_a_node_have_its_words_and_synonyms_as_training_has_them():
    node = compose("train", WORDS).data
    catalogue = load(node)
    captions = bind_captions(node, catalogue)
    dress = catalogue.column("category").index("dress")
    colour = catalogue.column("colour")[dress]
    assert captions.first(dress) == f"a {colour} gown"
    assert captions.all(dress) == {f"a {colour} gown", f"a {colour} frock"}
    trained = build_data(node, catalogue, inputs(24))
    pairs = trained.pairs("train")
    embedded = bind_captions(node, pairs.catalogue)
    assert [pairs.caption(row) for row in range(len(pairs))] == embedded.texts()
    assert Captions(["a garment"]).bind(catalogue).texts() == ["a garment"] * len(catalogue)  # of no column


def test_words_may_be_those_of_the_prompts():
    cfg = compose("train", ["experiment=kagl_transfer"])
    assert captions_of(cfg.data).words == OmegaConf.to_container(cfg.data.classes)

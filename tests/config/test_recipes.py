"""Every recipe composes, and trains end to end on a tiny catalogue with towers of a few thousand parameters."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from helpers.commands import modiste
from helpers.tiny_encoders import save_clip, save_siglip
from modiste.config import compose, config_dir, validate
from modiste.data.datasets.kagl import HEADER

RECIPES = sorted(file.stem for file in (config_dir() / "experiment").glob("*.yaml"))
# The synthetic garments in the place of a recipe's own data, whose columns their captions, batches and prompts name.
DATA = ["data=synthetic", "data/split=random", "data.catalogue.products=80", "data.catalogue.size=32"]
DATA += [
    "data.num_workers=1",
    "data.batch_size=16",
    "data.batches.group_by=null",
    "data.captions.weights=[]",
    "data.augment=[]",
]
SHORT = ["trainer.max_epochs=1", "trainer.log_every_n_steps=1", "optim.warmup=0"]
SMALL = ["image=timm", "image.name=test_vit", "image.pretrained=false", "image.size=32"]
TEXT = ["text=small", "text.config.hidden_size=32", "text.config.intermediate_size=32"]
TOWERS = [*SMALL, *TEXT, "tune.image.layers=1", "tune.text.layers=1"]
LONGER = "'{text}','{colour} {category}','{text}, a {colour} {category} for {gender}'"
CAPTIONS = {
    "fashionclip_2022": ["data.captions.templates=['{colour}, {category}, {text}']"],
    "openfashionclip_2023": [],
    "zooclaw_2026": [
        f"data.captions.templates=[{LONGER}]",
        "data.batches.group_by=category",
        "data.batches.group_size=4",
    ],
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_composes_and_its_header_says_what_how_and_what_came_out(recipe):
    cfg = compose("train", [f"experiment={recipe}"])
    assert cfg.name == recipe
    validate(cfg)
    header = (config_dir() / "experiment" / f"{recipe}.yaml").read_text().split("\n\n")[0]
    assert f"modiste train experiment={recipe}" in header
    result = re.search(r"Result.*?:.*?\d\.\d{3}", header, re.S)
    not_run = "Not run at full size here" in header
    assert bool(result) != not_run
    time = re.search(r"\b(\d+ min|\d+ s|[Tt]raining time not recorded)\b", header)
    assert time or not_run, "the header says how long training took, or that it was not recorded"


def train(recipe, folder, *words):
    run = modiste("train", f"experiment={recipe}", *DATA, *SHORT, *words, "hydra.run.dir=run", cwd=folder)
    assert run.returncode == 0, run.stdout + run.stderr
    state = torch.load(folder / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] > 0
    return state


@pytest.mark.slow
def test_lit_trains_the_text_tower_on_cached_image_features(tmp_path):
    state = train("lit", tmp_path, *TOWERS)
    assert any(key.startswith("model.text.") for key in state["state_dict"])
    assert list(Path(os.environ["MODISTE_CACHE"]).glob("features/*.npy"))


def tiny_kagl(root):
    """A shop in KAGL's layout: types that are trained and types that are held out, worn by nobody, on white."""
    (root / "images").mkdir(parents=True)
    types = [("Shirts", "check"), ("Tshirts", "Polo"), ("Jeans", ""), ("Handbags", ""), ("Flats", ""), ("Scarves", "")]
    rows = []
    for number in range(120):
        kind, word = types[number % len(types)]
        colour = ("Red", "Navy Blue")[number // len(types) % 2]
        rows.append(f"{number},Women,Apparel,Sub,{kind},{colour},Summer,2012,Casual,Brand {number} {word} {kind}")
        photo = Image.new("RGB", (60, 80), "white")
        # No two are identical: held-out products take their duplicates with them.
        photo.paste(("red", "navy")[colour == "Navy Blue"], (8, 10, 32 + number % 20, 50 + 2 * (number // 20)))
        photo.save(root / "images" / f"{number}.jpg")
    (root / "styles.csv").write_text("\n".join([",".join(HEADER), *rows, ""]))
    return root


@pytest.mark.slow
def test_kagl_general_trains_on_a_shop_and_is_selected_by_the_mean_over_its_domains(tmp_path):
    small = [*TOWERS, "trainer.precision=32-true", "data.batch_size=16", "data.num_workers=1", "model.embed_dim=32"]
    # The shop's own domains: its thumbnails, scenes and held-out types.
    own = ["~transfer.cutouts", "~transfer.street", "~transfer.synthetic"]
    names = ("retrieval/t2i/mrr", "held_out/zeroshot/articleType/weighted_f1", "scenes/zeroshot/garment/weighted_f1")
    mean = f"monitor.mean=[{','.join(f'val/{name}' for name in names)}]"
    shop = [f"data.catalogue.path={tiny_kagl(tmp_path / 'shop')}", "data/split=random"]
    shop += ["data.held_out={articleType: [Flats, Scarves]}"]  # two of the recipe's
    words = ["experiment=kagl_general", *shop, *small, *own, mean, *SHORT, "hydra.run.dir=run"]
    run = modiste("train", *words, cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    (values,) = json.loads((tmp_path / "run" / "selection.json").read_text())["validations"]
    assert values["values"]["val/mean"] == pytest.approx(
        sum(values["values"][f"val/{name}"] for name in names) / len(names), rel=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["siglip", "matryoshka"])
def test_recipes_of_two_towers_train_and_are_evaluated(recipe, tmp_path):
    state = train(recipe, tmp_path, *TOWERS, "data.captions.templates=['{text}']")
    assert ("loss.logit_bias" in state["state_dict"]) == (recipe == "siglip")
    dims = ["-m", "dim=48,384"] if recipe == "matryoshka" else []
    seen = modiste("evaluate", *dims[:1], "run=run", "task=[retrieval]", *dims[1:], cwd=tmp_path)
    assert seen.returncode == 0, seen.stdout + seen.stderr
    names = {file.stem for file in (tmp_path / "run" / "results").glob("*.json")}
    kept = ("dim48", "dim384") if dims else ("",)
    assert names == {".".join(["synthetic.test.retrieval", word]).rstrip(".") for word in kept}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", list(CAPTIONS))
def test_recipes_that_fine_tune_a_published_model_train_and_are_evaluated(recipe, tmp_path):
    source = (save_siglip if recipe == "zooclaw_2026" else lambda path: save_clip(path, eos=2))(tmp_path / "hub")
    kind = ["model=clip_b32"] if recipe == "openfashionclip_2023" else []
    state = train(recipe, tmp_path, *kind, f"model.source={source}", *CAPTIONS[recipe])
    assert (tmp_path / "run" / "start.ckpt").is_file() == (recipe == "zooclaw_2026")
    assert {key.split(".")[0] for key in state["state_dict"]} == {"model", "loss"}
    seen = modiste("evaluate", "run=run", "task=[retrieval]", cwd=tmp_path)
    assert seen.returncode == 0, seen.stdout + seen.stderr

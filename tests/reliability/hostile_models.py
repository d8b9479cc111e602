"""Model folders of a stranger: real ones, in which one file was changed to lead to code or to files outside."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from reliability import forks
from reliability.hostile import EVALUATE, Case, in_config, put

Make = Callable[[Path, Path], Any]
EMBED = ("embed", "data=synthetic_hard", "data.catalogue.products=20", "model=evil", "out=vectors")
LIBRARY = "Cannot load"
"""What is printed where a library, and not Modiste, refuses a folder."""
BERT = {"model_type": "bert", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "vocab_size": 512}  # fmt: skip
PAIR = {"model_type": "vision-text-dual-encoder", "text_config": BERT}
SBERT = "sentence_bert_config.json"


def wrapped(**values: Any) -> dict[str, Any]:
    """A model of timm within transformers."""
    return {"model_type": "timm_wrapper", "architecture": "test_resnet", **values}


def save_clip(folder: Path) -> None:
    """A tiny CLIP in the layout of transformers."""
    from helpers import tiny_encoders

    tiny_encoders.save_clip(folder, eos=2)


def save_sentences(folder: Path) -> None:
    """A tiny CLIP in the layout of sentence-transformers."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Transformer

    with tempfile.TemporaryDirectory() as parts:
        save_clip(Path(parts))
        SentenceTransformer(modules=[Transformer(parts)], device="cpu").save_pretrained(str(folder))


def save_open_clip(folder: Path) -> None:
    """A tiny CLIP in the layout of open_clip."""
    from helpers import tiny_openclip

    tiny_openclip.save(folder, tiny_openclip.CLIP)


@functools.cache
def saved(save: Callable[[Path], None]) -> Path:
    """A model folder, made once."""
    folder = Path(tempfile.mkdtemp(prefix="hostile-model-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    forks.apart(save, folder)
    return folder


def model(save: Callable[[Path], None], *changes: Make) -> Make:
    """The changed folder, and what its changes may lead to outside."""

    def make(folder: Path, outside: Path) -> None:
        shutil.rmtree(folder)
        shutil.copytree(saved(save), folder)
        for file in saved(save_clip).iterdir():
            shutil.copy(file, outside)
        (outside / "x.pt").write_bytes(b"x")
        for change in changes:
            change(folder, outside)

    return make


def values(file: str, *path: str, **changed: Any) -> Make:
    """Keys of a JSON file, of the node to which ``path`` leads."""

    def change(folder: Path, outside: Path) -> None:
        place = folder / file
        place.parent.mkdir(exist_ok=True)
        content = json.loads(place.read_text()) if place.is_file() else {}
        node = content
        for key in path:
            node = node[key]
        node |= json.loads(json.dumps(changed).replace("{out}", str(outside)))
        place.write_text(json.dumps(content))

    return change


def without(file: str) -> Make:
    """A missing file."""
    return lambda folder, outside: (folder / file).unlink()


def linked(file: str) -> Make:
    """A link to the file of the same name outside."""

    def change(folder: Path, outside: Path) -> None:
        (folder / file).unlink()
        (folder / file).symlink_to(outside / file)

    return change


def piped(file: str) -> Make:
    """A FIFO in place of a file."""

    def change(folder: Path, outside: Path) -> None:
        (folder / file).unlink()
        os.mkfifo(folder / file)

    return change


def sharded(folder: Path, outside: Path) -> None:
    """Weights whose index says that they lie outside."""
    above = os.path.relpath(outside, folder)
    index = {"metadata": {}, "weight_map": {"logit_scale": f"{above}/model.safetensors"}}
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def modules(**module: str) -> Make:
    """One more module of sentence-transformers."""

    def change(folder: Path, outside: Path) -> None:
        above = os.path.relpath(outside, folder)
        file = folder / "modules.json"
        found = json.loads(file.read_text())
        found.append({"idx": 9, "name": "9", "path": "", **module})
        file.write_text(json.dumps(found).replace("{out}", above))

    return change


TRANSFORMERS: dict[str, tuple[Make, ...]] = {
    "timm's checkpoint": (
        values("config.json", **PAIR, vision_config=wrapped(model_args={"checkpoint_path": "{out}/x.pt"})),
    ),
    "timm's folder": (values("config.json", **PAIR, vision_config=wrapped(architecture="local-dir:{out}")),),
    "timm's repository": (values("config.json", **PAIR, vision_config=wrapped(architecture="hf-hub:attacker/x")),),
    "a kernel": (values("config.json", "text_config", _attn_implementation_internal="attacker/kernel"),),
    "a quantiser": (values("config.json", quantization_config={"quant_method": "fp8"}),),
    "code of a part": (
        values("config.json", **PAIR, vision_config={"model_type": "clip", "auto_map": {"AutoModel": "a/b--c.M"}}),
    ),
    "an adapter": (values("adapter_config.json", peft_type="LORA", base_model_name_or_path="{out}"),),
    "weights outside": (sharded,),
    "a vocabulary outside": (values("tokenizer_config.json", vocab_file="{out}/x.pt"), without("tokenizer.json")),
    "a vocabulary outside, as vocab": (
        values("tokenizer_config.json", vocab="{out}/secret.txt"),
        without("tokenizer.json"),
    ),
    "a vocabulary outside, as an argument": (
        values("tokenizer_config.json", init_inputs=["{out}/secret.txt"]),
        without("tokenizer.json"),
    ),
    "a vocabulary outside, as a token": (
        values("special_tokens_map.json", vocab="{out}/secret.txt"),
        without("tokenizer.json"),
    ),
    "words of the working directory": (
        values("tokenizer_config.json", tokenizer_class="SiglipTokenizer", sp_model_kwargs={"model_file": "private/x"}),
        without("tokenizer.json"),
    ),
    "a processor that asks the hub": (
        values("preprocessor_config.json", image_processor_type="OneFormerImageProcessor", repo_path="attacker/x"),
    ),
    "a processor that is a model": (
        values("preprocessor_config.json", image_processor_type="AutoModelForCausalLM"),
        values("config.json", auto_map={"AutoModelForCausalLM": "evil.M", "AutoConfig": "evil.C"}),
    ),
    "a tokenizer that opens files": (
        values("tokenizer_config.json", tokenizer_class="MyT5Tokenizer"),
        values("byte_maps.json", decompose_map="{out}/secret.txt", merge_map={}),
        without("tokenizer.json"),
    ),
    "a tokenizer's code": (values("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", None]}),),
    "a backbone of the hub": (
        values("config.json", **PAIR, vision_config={"model_type": "zoedepth", "backbone": "attackersrepo"}),
    ),
    "a part of another config": (
        values("config.json", "text_config", model_type="lightglue", keypoint_detector_config={"_name_or_path": "x"}),
    ),
    "linked weights": (linked("model.safetensors"),),
    "a linked config": (linked("config.json"),),
    "a linked tokenizer": (linked("tokenizer.json"),),
    "a pipe": (piped("preprocessor_config.json"),),
    "a pipe of weights": (piped("model.safetensors"),),
}
SENTENCES: dict[str, tuple[Make, ...]] = {
    "a kernel": (values(SBERT, model_kwargs={"attn_implementation": "attacker/kernel", "allow_all_kernels": True}),),
    "an old name's kernel": (values(SBERT, model_args={"attn_implementation": "attacker/kernel"}),),
    "all pickles": (values(SBERT, model_kwargs={"weights_only": False, "use_safetensors": False}),),
    "another processor": (values(SBERT, tokenizer_name_or_path="{out}"),),
    "a cache": (values(SBERT, config_kwargs={"cache_dir": "{out}/made"}),),
    "a method": (values(SBERT, modality_config={"text": {"method": "push_to_hub", "method_output_name": None}}),),
    "an adapter": (values("adapter_config.json", peft_type="LORA", base_model_name_or_path="{out}"),),
    "a tokenizer's class": (modules(type="sentence_transformers.sentence_transformer.modules.WordEmbeddings"),),
    "a module outside": (modules(type="sentence_transformers.sentence_transformer.modules.Dense", path="{out}"),),
    "linked weights": (linked("model.safetensors"),),
}
OPEN_CLIP: dict[str, tuple[Make, ...]] = {
    "timm's folder": (values("open_clip_config.json", "model_cfg", "vision_cfg", timm_model_name="local-dir:{out}"),),
    "timm's repository": (values("open_clip_config.json", "model_cfg", "vision_cfg", timm_model_name="hf-hub:a/x"),),
    "a text encoder outside": (values("open_clip_config.json", "model_cfg", "text_cfg", hf_model_name="{out}"),),
    "a tokenizer's file": (
        values(
            "open_clip_config.json", "model_cfg", "text_cfg", hf_tokenizer_name="x",
            tokenizer_kwargs={"tokenizer_file": "{out}/tokenizer.json"},
        ),
    ),
}  # fmt: skip


def folders() -> Iterator[Case]:
    """Each layout of a model folder, each change."""
    layouts = (("transformers", save_clip, TRANSFORMERS), ("sentence-transformers", save_sentences, SENTENCES),
               ("open_clip", save_open_clip, OPEN_CLIP))  # fmt: skip
    for layout, save, changes in layouts:
        for name, change in changes.items():
            yield Case(f"{layout}: {name}", model(save, *change), EMBED, LIBRARY)


def runs(outside: Path) -> Iterator[Case]:
    """Towers of a run's configuration that are no text encoder, or that name files."""
    text: dict[str, Any] = {
        "timm's checkpoint": wrapped(model_args={"checkpoint_path": f"{outside}/secret.txt"}),
        "timm's folder": wrapped(architecture=f"local-dir:{outside}"),
        "timm within another": {**PAIR, "vision_config": wrapped(model_args={"cache_dir": f"{outside}/made"})},
        "a detector": {"model_type": "detr"},
        "kernels": {**BERT, "use_kernels": True},
        "a backbone of the hub": {"model_type": "zoedepth", "backbone": "attackersrepo", "hidden_size": 32},
        "code of a part": {"model_type": "lightglue", "keypoint_detector_config": {"_name_or_path": str(outside)}},
    }
    for name, config in text.items():
        yield Case(f"config.yaml, text.config: {name}", in_config(put("model.text.config", config)), EVALUATE,
                   "Traceback")  # fmt: skip

"""Families of transformers that Modiste reads: architectures, tokenizers, image processors by name.

transformers has hundreds, and among them some whose settings name repositories and files. A stranger's folder chooses
among the ones below.
"""

from __future__ import annotations

import re

from modiste.errors import ModisteError

TEXT_TYPES = (
    "albert bert bert-generation big_bird biogpt bloom camembert convbert data2vec-text deberta deberta-v2 distilbert "
    "electra ernie eurobert flaubert fnet funnel gemma gemma2 gemma3 gemma3_text gpt2 gpt_neo gpt_neox granite ibert "
    "jina_embeddings_v3 layoutlm llama longformer megatron-bert mistral mobilebert modernbert modernbert-decoder mpnet "
    "mt5 nomic_bert nystromformer olmo olmo2 opt phi phi3 qwen2 qwen3 rembert roberta roberta-prelayernorm roformer "
    "smollm3 squeezebert stablelm starcoder2 t5 t5gemma umt5 xlm xlm-roberta xlm-roberta-xl xlnet xmod"
)
DUAL_TYPES = (
    "aimv2 aimv2_text_model aimv2_vision_model align align_text_model align_vision_model altclip altclip_text_model "
    "altclip_vision_model blip blip_text_model blip_vision_model chinese_clip chinese_clip_text_model "
    "chinese_clip_vision_model clip clip_text_model clip_vision_model clipseg clipseg_text_model clipseg_vision_model "
    "groupvit groupvit_text_model groupvit_vision_model metaclip_2 metaclip_2_text_model metaclip_2_vision_model "
    "siglip siglip2 siglip2_text_model siglip2_vision_model siglip_text_model siglip_vision_model tipsv2 "
    "tipsv2_text_model tipsv2_vision_model vision-text-dual-encoder"
)
IMAGE_TYPES = (
    "beit bit convnext convnextv2 data2vec-vision deit dinov2 dinov2_with_registers dinov3_convnext dinov3_vit "
    "efficientnet hiera ijepa levit mobilevit poolformer pvt regnet resnet swin swinv2 timm_wrapper vit vit_mae vit_msn"
)
# Written by Modiste and sentence-transformers themselves.
OTHER_TYPES = "modiste SentenceTransformer"
MODEL_TYPES = frozenset(f"{TEXT_TYPES} {DUAL_TYPES} {IMAGE_TYPES} {OTHER_TYPES}".split())
OF_TOKENIZERS = (
    "Albert Bart Bert BertGeneration BertJapanese Bertweet BigBird BioGpt Bloom CLIP Camembert ConvBert Deberta "
    "DebertaV2 DistilBert Electra FNet Flaubert Funnel GPT2 GPTNeoX Gemma Herbert LayoutLM Llama Longformer MPNet MT5 "
    "MobileBert Nystromformer OPT Phobert PreTrained Qwen2 Qwen3 RemBert RoFormer Roberta Siglip Siglip2 SqueezeBert "
    "T5 Tipsv2 XLM XLMRoberta XLNet"
)
OF_IMAGE_PROCESSORS = (
    "Aimv2 Beit Bit Blip CLIP CLIPSeg ChineseCLIP ConvNeXT ConvNext DINOv3ViT DeepseekVL DeiT EfficientNet Levit "
    "MobileViT Modiste PoolFormer Pvt Siglip Siglip2 TimmWrapper Tipsv2 ViT"
)
OF_PROCESSORS = "Align AltCLIP Blip CLIP CLIPSeg ChineseCLIP Modiste Siglip Siglip2 Tipsv2 VisionTextDualEncoder"
BACKENDS = {"PythonBackend", "SentencePieceBackend", "TokenizersBackend"}
TOKENIZERS = frozenset({f"{name}Tokenizer" for name in OF_TOKENIZERS.split()} | BACKENDS)
IMAGE_PROCESSORS = frozenset(f"{name}ImageProcessor" for name in OF_IMAGE_PROCESSORS.split())
PROCESSORS = frozenset(f"{name}Processor" for name in OF_PROCESSORS.split())


def check_model_type(key: str, value: object, where: str) -> None:
    """Check that a ``model_type`` is one of an encoder or a dual encoder that Modiste reads.

    Raises:
        ModisteError: It is another.

    >>> check_model_type("model_type", "zoedepth", "config.json")
    Traceback (most recent call last):
    modiste.errors.ModisteError: model_type=zoedepth of config.json is not an encoder that Modiste reads: use a text, \
image or dual encoder such as bert, vit or clip.
    """
    if not isinstance(value, str) or value not in MODEL_TYPES:
        raise ModisteError(
            f"{key}={value} of {where} is not an encoder that Modiste reads: use a text, image or dual encoder such as "
            "bert, vit or clip."
        )


def check_tokenizer(key: str, value: object, where: str) -> None:
    """Check the class of a tokenizer. Raises ModisteError: it is not one of a family that Modiste reads."""
    _check_class(key, value, where, TOKENIZERS, "PreTrainedTokenizerFast")


def check_processor(key: str, value: object, where: str) -> None:
    """Check the class of a processor of images, texts or both. Raises ModisteError: see `check_tokenizer`."""
    _check_class(key, value, where, PROCESSORS | IMAGE_PROCESSORS | TOKENIZERS, "CLIPProcessor")


def check_image_processor(key: str, value: object, where: str) -> None:
    """Check the class of an image processor. Raises ModisteError: see `check_tokenizer`."""
    _check_class(key, value, where, IMAGE_PROCESSORS, "CLIPImageProcessor")


def _check_class(key: str, value: object, where: str, known: frozenset[str], example: str) -> None:
    name = re.sub(r"(Fast|Pil)$", "", value) if isinstance(value, str) else ""
    if name.replace("FeatureExtractor", "ImageProcessor") not in known:
        raise ModisteError(
            f"{key}={value} of {where} is not a class that Modiste reads: save the model again with another, such as "
            f"{example}."
        )

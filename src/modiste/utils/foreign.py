"""Checks of untrusted model folders and configurations for settings that run code or load files.

transformers, sentence-transformers, open_clip and timm read more than the architecture from a model's JSON files: the
names of kernels to download, of other repositories, of files. Modiste checks these files here before one of the
libraries reads them.
"""

from __future__ import annotations

import inspect
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from modiste.errors import ModisteError
from modiste.utils import families
from modiste.utils.archives import BROKEN, check_stored
from modiste.utils.links import refuse_links
from modiste.utils.nested import entries, leaves
from modiste.utils.run_dir import read_json
from modiste.utils.tokenizer_files import check_sentencepiece, check_tokenizer

ADAPTER = "adapter_config.json"
# Files from which the libraries read settings; vocabularies are data, and no library reads the other files.
SETTINGS = re.compile(
    r"((adapter|audio_tokenizer|generation|open_clip|preprocessor|processor|router|sentence_[\w-]+|tokenizer"
    r"|video_preprocessor)_config|config(_sentence_transformers|\.[\w.-]+)?|modules|modiste|special_tokens_map"
    r"|.*\.index(\.[\w-]+)?)\.json"
)
TOKENIZER = re.compile(r"tokenizer(\.[\w.-]+)?\.json")
WEIGHTS = (".bin", ".ckpt", ".pt", ".pth")
"""Files of ``torch.save``."""
SENTENCE_CONFIG = re.compile(r"sentence_[\w-]+_config\.json")
MODULE = re.compile(
    r"sentence_transformers\.(models|(base|sentence_transformer)\.modules)(\.\w+)?"
    r"\.(Transformer|CLIPModel|Router|Asym|Pooling|Dense|Normalize|LayerNorm|Dropout)"
)
OTHERS = ["*modules.json", "*modiste.json", "*tokens*.json", "*.index*.json", "*tokenizer*.json"]
ACTIVATION = re.compile(r"torch\.nn\.modules\.(activation|linear)\.[A-Z]\w+")
METHOD = re.compile(r"forward|get_\w+_features")
# Arguments that a sentence-transformers folder may pass on to transformers.
HANDED_ON = {
    "model_kwargs": {"add_pooling_layer", "attn_implementation", "dtype", "torch_dtype", "trust_remote_code"},
    "processor_kwargs": {
        "backend", "do_lower_case", "max_pixels", "min_pixels", "model_max_length", "padding_side", "trust_remote_code",
        "truncation_side", "use_fast",
    },
    "config_kwargs": {"trust_remote_code"},
}  # fmt: skip
HANDED_ON |= {f"{name}_args": HANDED_ON[f"{new}_kwargs"] for name, new in (
    ("model", "model"), ("tokenizer", "processor"), ("config", "config"))}  # fmt: skip
# Standard names of tokenizer files; transformers would open any other name relative to the working directory.
VOCABULARIES = (
    "merges.txt", "sentencepiece.bpe.model", "special_tokens_map.json", "spiece.model", "tokenizer.json",
    "tokenizer.model", "vocab.json", "vocab.txt",
)  # fmt: skip
# Word forms of SudachiPy.
PROJECTIONS = ("surface", "normalized", "reading", "dictionary", "dictionary_and_surface", "normalized_and_surface",
               "normalized_nouns")  # fmt: skip
# Word tokenizers of BertJapanese that work in this process; jumanpp is a program.
WORD_TOKENIZERS = ("basic", "mecab", "sudachi")
# Old versions of transformers wrote paths on the author's machine under these keys; nothing reads them.
UNREAD = ("name_or_path", "special_tokens_map_file")
# Code that `modiste export format=transformers` writes into the folder.
OWN_CODE = re.compile(r"(modeling|configuration|processing|image_processing)_modiste\.Modiste\w+")


def check_folder(folder: Path) -> None:
    """Check a model folder, in the layout of any of the libraries, before one of them reads it.

    Args:
        folder: A model folder, or a snapshot in the Hugging Face cache, whose files are links into that cache.

    Raises:
        ModisteError: The folder contains links, pipes, devices, compressed weights, an adapter or an unreadable JSON
            file; or see `check_values`.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     _ = Path(folder, "config.json").write_text('{"attn_implementation": "attacker/kernel"}')
    ...     check_folder(Path(folder))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    modiste.errors.ModisteError: attn_implementation=attacker/kernel of '...config.json' is code from the model hub, ...
    """
    refuse_links(folder, "is not part of the model", _cached(folder))
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in WEIGHTS and file.is_file():
            _check_weights(file)
        name = file.name.lower()  # some file systems are case-insensitive
        if SETTINGS.fullmatch(name):
            check_file(file)
        if TOKENIZER.fullmatch(name):
            check_tokenizer(file)
    _check_sentencepieces(folder)


def _check_sentencepieces(folder: Path) -> None:
    for file in sorted(folder.rglob("*")):  # transformers takes any .model, where it finds no other
        if file.name.lower().endswith(".model") and file.is_file():
            check_sentencepiece(file)


def _check_weights(file: Path) -> None:
    import torch

    try:
        check_stored(file)
        try:
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
        except Exception:  # of many kinds; no weights, or damaged, which the library says that reads it
            return
        check_tensors(content)
    except (*BROKEN, ValueError) as error:
        raise ModisteError(f"'{file}' is refused, as {error}: save the weights again.") from None


def check_tensors(content: object) -> None:
    """Check that the tensors of a file are no larger than what the file stores of them.

    Args:
        content: Tensors in nested containers.

    Raises:
        ValueError: One of a few bytes would fill memory in the first operation.

    >>> import torch
    >>> check_tensors({"w": torch.zeros(1).expand(2**40)})
    Traceback (most recent call last):
    ValueError: a tensor has more elements than it stores
    """
    import torch

    for tensor in leaves(content):
        if isinstance(tensor, torch.Tensor):
            plain = tensor.layout is torch.strided and tensor.device.type != "meta"
            if not plain or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
                raise ValueError("a tensor has more elements than it stores")


def check_file(file: Path) -> None:
    """Check a JSON file of a model folder. Raises ModisteError: see `check_folder`."""
    name, where = file.name.lower(), f"'{file}'"
    if name == ADAPTER:
        raise ModisteError(
            f"'{file}' makes an adapter load the base model that it names: merge the adapter into its base model and "
            "save that, or remove the file."
        )
    content = read_json(file)
    if name == "modules.json":
        return _check_modules(content, where)
    if not isinstance(content, Mapping):
        raise ModisteError(f"{where} is not a JSON object: save the model again.")
    if SENTENCE_CONFIG.fullmatch(name):
        _check_sentence_config(content, where)
    if name.startswith("config."):
        return check_config(content, where)
    _refuse_code(content, where)
    return check_values(content, where)


def check_hub(repository: str, revision: str | None = None) -> str:
    """Check the JSON files and SentencePiece models of a hub repository, downloaded or cached.

    Args:
        repository: ``owner/name``.
        revision: Branch, tag or commit; None: the default branch.

    Returns:
        The commit that was checked; load exactly this one.

    Raises:
        ModisteError: See `check_folder`.
        OSError: The hub cannot be reached, or the repository does not exist.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    wanted: dict[str, Any] = {"allow_patterns": ["*config*.json", *OTHERS]}
    try:  # one request first: without network, `snapshot_download` retries for half a minute, even for cached files
        commit = HfApi().model_info(repository, revision=revision).sha
        folder, cached = Path(snapshot_download(repository, revision=commit, **wanted)), False
    except Exception as error:  # errors of several packages
        try:
            folder = Path(snapshot_download(repository, revision=revision, local_files_only=True, **wanted))
        except LocalEntryNotFoundError:
            raise (error if isinstance(error, OSError) else OSError(str(error))) from error
        cached = True
    check_folder(folder)
    try:  # nothing but JSON files before these are checked
        snapshot_download(repository, revision=folder.name, local_files_only=cached, allow_patterns=["*.model"])
    except Exception as error:
        raise (error if isinstance(error, OSError) else OSError(str(error))) from error
    _check_sentencepieces(folder)
    return folder.name


def downloaded(repository: str, commit: str, patterns: Sequence[str]) -> Path:
    """Download files of a repository at the commit that `check_hub` checked, and check them.

    Args:
        repository: ``owner/name``.
        commit: Commit that `check_hub` returned.
        patterns: Patterns of file names; subfolders are ignored.

    Raises:
        ModisteError: See `check_folder`.
        OSError: The hub cannot be reached, and the cache has nothing of this commit.
    """
    from huggingface_hub import snapshot_download

    wanted: dict[str, Any] = {"revision": commit, "allow_patterns": list(patterns), "ignore_patterns": ["*/*"]}
    try:
        folder = Path(snapshot_download(repository, **wanted))
    except Exception as error:  # of several packages
        try:
            folder = Path(snapshot_download(repository, local_files_only=True, **wanted))
        except Exception:
            raise (error if isinstance(error, OSError) else OSError(str(error))) from error
    check_folder(folder)
    return folder


def check_source(source: str, revision: str | None = None) -> tuple[str, str]:
    """Check a model folder or a model hub repository; return the (source, revision) to load.

    A folder is returned as an absolute path, since sentence-transformers would look up ``name`` and ``models/name`` on
    the hub.

    Raises:
        ModisteError: See `check_folder`.
        OSError: See `check_hub`.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        return source, check_hub(source, revision)
    check_folder(folder)
    return str(folder.absolute()), "main"


def check_values(values: object, where: str) -> None:
    """Check the plain values of a model's configuration, at any depth.

    Args:
        values: Values read from JSON or YAML.
        where: Name of the configuration for the error.

    Raises:
        ModisteError: A value names code, another model, a file outside the folder, an option of timm's loader,
            or a model family that Modiste does not read (`modiste.utils.families`).

    >>> check_values({"vision_config": {"backbone": "hf-hub:attacker/x"}}, "text.config")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    modiste.errors.ModisteError: backbone=hf-hub:attacker/x of text.config is not the name of an architecture: ...
    """
    for rules, endings in ((RULES, ENDINGS), ({"model_type": families.check_model_type}, CLASSES)):
        for key, value in entries(values):
            name = key.strip("_").removesuffix("_internal")
            rule = rules.get(name) or next((rule for ending, rule in endings.items() if name.endswith(ending)), None)
            if rule and name not in UNREAD and value not in (None, False, "", [], {}):
                rule(key, value, where)


def check_config(values: object, where: str) -> None:
    """Check a transformers config and nested ones, whose code transformers would run without asking.

    Args:
        values: Its plain values.
        where: Name of the config for the error.

    Raises:
        ModisteError: See `check_values`; or a nested config has an ``auto_map`` or names another model.
    """
    check_values(values, where)
    within = list(values.values()) if isinstance(values, Mapping) else values
    _refuse_code(within, f"a part of {where}")
    for key, value in entries(within):
        if key.strip("_") == "name_or_path" and value:
            raise ModisteError(f"{key} of a part of {where} names another model: remove it.")


def _refuse_code(values: object, where: str) -> None:
    """Refuse an ``auto_map``, which names Python files, wherever nobody is asked whether they may run."""
    for key, value in entries(values):
        if key.strip("_") == "auto_map" and not all(
            isinstance(name, str) and OWN_CODE.fullmatch(name) for name in leaves(value)
        ):
            raise ModisteError(f"auto_map of {where} names code, which is refused: remove it.")


def check_options(options: Mapping[str, Any], refusal: str) -> None:
    """Raise ModisteError for an option of timm's loader rather than of the architecture.

    Such options make timm load weights from URLs and files, and create folders.

    Args:
        options: Keyword arguments of ``timm.create_model``.
        refusal: The error message, with ``{name}`` in place of the option.
    """
    import timm
    from timm.models import build_model_with_cfg

    own = {name for call in (timm.create_model, build_model_with_cfg) for name in inspect.signature(call).parameters}
    for name in options:
        if name in own - {"kwargs"}:
            raise ModisteError(refusal.format(name=name))


def is_kernel(word: object) -> bool:
    """Whether an implementation of attention or of experts names code that transformers would download.

    >>> is_kernel("attacker/kernel"), is_kernel("paged|attacker/kernel"), is_kernel("sdpa"), is_kernel("paged|eager")
    (True, True, False, False)
    """
    if not isinstance(word, str) or not re.fullmatch(r"(paged\|)?\w*", word):
        return True
    # Without flash-attn, transformers downloads a kernel from the hub.
    return "flash" in word and find_spec("kernels") is not None


def stays_inside(name: object) -> bool:
    """Whether a file name in a configuration stays inside the configuration's folder.

    >>> stays_inside("1_Dense"), stays_inside("../x"), stays_inside("/etc/passwd"), stays_inside("http://x/y")
    (True, False, False, False)
    """
    parts = PurePosixPath(name).parts if isinstance(name, str) and not re.search(r"[:\\~]", name) else ("/",)
    return not {"/", "//", ".."} & set(parts)


@contextmanager
def weights_alone() -> Iterator[None]:
    """Make ``torch.load`` use ``weights_only=True`` within the block, whatever its caller passes."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})


def _cached(folder: Path) -> Callable[[Path], bool]:
    """Return a test for links of a Hugging Face cache snapshot: to a blob of the same repository."""
    snapshots = folder.absolute().parent
    blobs = snapshots.parent.resolve() / "blobs"
    repository = snapshots.name == "snapshots" and snapshots.parent.name.startswith("models--")
    return lambda link: repository and link.resolve().parent == blobs and link.resolve().is_file()


# ---------------------------------------------------------------------------------------------------- rules of a key


def _refuse_kernel(key: str, value: object, where: str) -> None:
    for word in leaves(value):
        if word is not None and is_kernel(word):
            raise ModisteError(
                f"{key.strip('_')}={word} of {where} is code from the model hub, which is refused: remove it, or name "
                "an implementation of transformers, such as sdpa."
            )


def _refuse(reason: str) -> Callable[[str, object, str], None]:
    def rule(key: str, value: object, where: str) -> None:
        raise ModisteError(f"{key} of {where} {reason}.")

    return rule


def _refuse_location(key: str, value: object, where: str) -> None:
    if not isinstance(value, str) or re.search(r"[:/\\]", value):
        raise ModisteError(f"{key}={value} of {where} is not the name of an architecture: name one of timm's.")


def _refuse_outside(key: str, value: object, where: str) -> None:
    for name in leaves(value):
        if not stays_inside(name):
            raise ModisteError(f"{key} of {where} names '{name}', which is outside the folder: correct the name.")


def _refuse_word(key: str, value: object, where: str) -> None:
    if isinstance(value, str):
        raise ModisteError(f"{key} of {where} names the file '{value}' as a vocabulary: remove it.")


def _refuse_timms(key: str, value: object, where: str) -> None:
    if isinstance(value, Mapping):
        check_options(value, f"{key}.{{name}} of {where} is not an option of an architecture: remove it.")


def _refuse_source(key: str, value: object, where: str) -> None:
    for name in ("file", "state_dict"):
        if isinstance(value, Mapping) and value.get(name):
            raise ModisteError(f"{key}.{name} of {where} names weights outside the folder: remove it.")


def _refuse_activation(key: str, value: object, where: str) -> None:
    if not isinstance(value, str) or ("." in value and not ACTIVATION.fullmatch(value)):
        raise ModisteError(f"{key}={value} of {where} is not an activation of torch: name one, or torch's Identity.")


def _refuse_file(key: str, value: object, where: str) -> None:
    for name in leaves(value):
        if name not in VOCABULARIES:
            raise ModisteError(f"{key} of {where} names '{name}', which is opened outside the folder: remove it.")


def _refuse_tokenizers(key: str, value: object, where: str) -> None:
    for name in leaves(value):  # transformers reads any name with such a part as a tokenizer.json
        if not isinstance(name, str) or not TOKENIZER.fullmatch(name):
            raise ModisteError(f"{key} of {where} names '{name}', which is no tokenizer.json: remove it.")


def _refuse_programs(key: str, value: object, where: str) -> None:
    if value not in WORD_TOKENIZERS:
        raise ModisteError(
            f"{key}={value} of {where} may start a program, which is refused: use {' or '.join(WORD_TOKENIZERS)}."
        )


def _refuse_words_but(*known: str) -> Callable[[str, object, str], None]:
    """Rule for another package's arguments: numbers, and the words that it does not take for a file."""

    def rule(key: str, value: object, where: str) -> None:
        for word in leaves(value):
            if isinstance(word, str) and word not in known:
                raise ModisteError(f"{key} of {where} has '{word}', which would open other files: remove it.")

    return rule


def _refuse_modules(key: str, value: object, where: str) -> None:
    if isinstance(value, Mapping):  # the modules of a router, by their folders
        for folder, kind in value.items():
            _check_module(folder, kind, where)


RULES: dict[str, Callable[[str, object, str], None]] = {
    "activation_function": _refuse_activation,
    "allow_all_kernels": _refuse("asks for code from the model hub, which is refused: remove it"),
    "architecture": _refuse_location,
    "attn_implementation": _refuse_kernel,
    "attribute_map": _refuse("renames the settings of a configuration, which hides them: remove it"),
    "audio_tokenizer": _refuse("names another model: remove it"),
    "backbone": _refuse_location,
    "backbone_kwargs": _refuse_timms,
    "compression_config": _refuse("quantises the model, which is not supported: save it unquantised"),
    "configuration_files": _refuse_outside,
    "entity_vocab": _refuse_word,
    "experts_implementation": _refuse_kernel,
    "fast_tokenizer_files": _refuse_tokenizers,
    "init_inputs": _refuse("passes files to the tokenizer: remove it"),
    "jumanpp_kwargs": _refuse("configures the program jumanpp, which is refused: remove it"),
    "kernel_config": _refuse("asks for code from the model hub, which is refused: remove it"),
    "mecab_kwargs": _refuse_words_but("ipadic", "unidic", "unidic_lite"),
    "merges": _refuse_word,
    "model_args": _refuse_timms,
    "pretrained_cfg": _refuse_source,
    "quantization_config": _refuse("quantises the model, which is not supported: save it unquantised"),
    "source_spm": _refuse_word,
    "sp_model_kwargs": _refuse_words_but(),
    "sudachi_kwargs": _refuse_words_but("A", "B", "C", "small", "core", "full", *PROJECTIONS),
    "target_spm": _refuse_word,
    "timm_model_name": _refuse_location,
    "tokenizer_file": _refuse_tokenizers,
    "transformers_weights": _refuse_outside,
    "trust_remote_code": _refuse("asks to run remote code, which is refused: remove that line"),
    "types": _refuse_modules,
    "use_kernels": _refuse("asks for code from the model hub, which is refused: remove it"),
    "use_pretrained_backbone": _refuse("asks for weights outside the folder: set it to false"),
    "vocab": _refuse_word,
    "weight_map": _refuse_outside,
    "word_tokenizer_type": _refuse_programs,
}
"""Key without surrounding underscores → check of its value."""
ENDINGS: dict[str, Callable[[str, object, str], None]] = {
    "_file": _refuse_file,
    "name_or_path": _refuse("names another model: remove it"),
}
"""The same for keys that end so."""
CLASSES: dict[str, Callable[[str, object, str], None]] = {
    "tokenizer_class": families.check_tokenizer,
    "feature_extractor_class": families.check_image_processor,
    "feature_extractor_type": families.check_image_processor,
    "video_processor_class": _refuse("names a processor of videos: remove it"),
    "video_processor_type": _refuse("names a processor of videos: remove it"),
    "image_processor_class": families.check_image_processor,
    "processor_class": families.check_processor,
    "processor_type": families.check_image_processor,
}
"""Classes of transformers, by keys that end so; checked after everything else."""


# ------------------------------------------------------------------------------- files of sentence-transformers


def _check_modules(modules: object, where: str) -> None:
    if not isinstance(modules, list) or not all(isinstance(module, Mapping) for module in modules):
        raise ModisteError(f"{where} is not a list of modules: save the model again.")
    check_values(modules, where)
    for module in modules:
        _check_module(module.get("path", ""), module.get("type"), where)


def _check_module(folder: object, kind: object, where: str) -> None:
    if not isinstance(kind, str) or not MODULE.fullmatch(kind):
        raise ModisteError(
            f"The module {kind} of {where} is refused: use modules of sentence-transformers that embed images and "
            "texts."
        )
    _refuse_outside("path", folder, where)


def _check_sentence_config(config: Mapping[str, Any], where: str) -> None:
    for name, known in HANDED_ON.items():
        given = config.get(name) or {}
        unknown = sorted(set(given) - known) if isinstance(given, Mapping) else [given]
        if unknown:
            raise ModisteError(f"{name}.{unknown[0]} of {where} is refused, as it may load code or files: remove it.")
    if config.get("processor_name"):
        raise ModisteError(f"processor_name of {where} names another model: remove it.")
    modalities = config.get("modality_config") or {}
    for entry in modalities.values() if isinstance(modalities, Mapping) else [modalities]:
        method = entry.get("method") if isinstance(entry, Mapping) else entry
        if not isinstance(method, str) or not METHOD.fullmatch(method):
            raise ModisteError(f"The method {method} of {where} is refused: only forward and get_…_features embed.")

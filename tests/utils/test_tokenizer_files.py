"""Tokenizers of strangers may not multiply a text; those of the common families pass."""

import base64
import json

import pytest
from tokenizers import Tokenizer

from modiste.errors import ModisteError
from modiste.search.encoder import TextTower
from modiste.utils import onnx
from modiste.utils.atomic import quick_digest, write_checked
from modiste.utils.foreign import check_folder, check_values
from modiste.utils.tokenizer_files import check_sentencepiece, check_tokenizer


def charsmap(longest):
    return (8).to_bytes(4, "little") + bytes(8) + b"a\0" + b"b" * longest + b"\0"


def replace(content, kind="Regex", pattern=" {2,}"):
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def chain(*parts, name="normalizers"):
    return {"type": "Sequence", name: list(parts)}


def template(single, pair=(), ids=1):
    pieces = {"A": {"Sequence": {"id": "A", "type_id": 0}}, "B": {"Sequence": {"id": "B", "type_id": 1}}}
    special = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [pieces.get(name, special) for name in single],
        "pair": [pieces.get(name, special) for name in pair or ["A", "B"]],
        "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [1] * ids, "tokens": ["[CLS]"] * ids}},
    }


PRECOMPILED = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap(18)).decode()}
BERT = {
    "type": "BertNormalizer",
    "clean_text": True,
    "handle_chinese_chars": True,
    "strip_accents": None,
    "lowercase": True,
}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
SPACES = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLIT = {"type": "Split", "pattern": {"Regex": QWEN}, "behavior": "Isolated", "invert": False}
ROBERTA = {
    "type": "RobertaProcessing",
    "sep": ["</s>", 2],
    "cls": ["<s>", 0],
    "trim_offsets": True,
    "add_prefix_space": False,
}
BERTS = template(["[CLS]", "A", "[CLS]"], ["[CLS]", "A", "[CLS]", "B", "[CLS]"])
LEGITIMATE = {
    "BERT": {"normalizer": BERT, "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": BERTS},
    "RoBERTa": {"pre_tokenizer": BYTES, "post_processor": ROBERTA},
    "CLIP": {
        "normalizer": chain({"type": "NFC"}, replace(" ", pattern=r"\s+"), {"type": "Lowercase"}),
        "pre_tokenizer": chain(SPLIT, BYTES, name="pretokenizers"),
        "post_processor": ROBERTA,
    },
    "T5": {
        "normalizer": chain(PRECOMPILED, {"type": "Strip", "strip_left": False, "strip_right": True}, replace("▁")),
        "pre_tokenizer": SPACES,
        "post_processor": template(["A", "[CLS]"], ["A", "[CLS]", "B", "[CLS]"]),
    },
    "ALBERT": {
        "normalizer": chain(
            replace('"', "String", "``"),
            replace('"', "String", "''"),
            *({"type": name} for name in ("NFKD", "StripAccents", "Lowercase")),
            PRECOMPILED,
            replace(" "),
        ),
        "pre_tokenizer": SPACES,
        "post_processor": BERTS,
    },
    "XLM-R": {
        "normalizer": chain(PRECOMPILED, replace(" ")),
        "pre_tokenizer": chain({"type": "WhitespaceSplit"}, SPACES, name="pretokenizers"),
        "post_processor": template(["[CLS]", "A", "[CLS]"], ["[CLS]", "A", "[CLS]", "[CLS]", "B", "[CLS]"]),
    },
    "Llama": {
        "normalizer": chain({"type": "Prepend", "prepend": "▁"}, replace("▁", "String", " ")),
        "post_processor": chain(BYTES, template(["[CLS]", "A"]), name="processors"),
    },
    "Gemma": {
        "normalizer": replace("▁", "String", " "),
        "pre_tokenizer": {**SPLIT, "pattern": {"String": " "}, "behavior": "MergedWithPrevious"},
    },
    "Qwen": {
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": chain(SPLIT, BYTES, name="pretokenizers"),
        "post_processor": BYTES,
    },
    "ModernBERT": {"normalizer": {"type": "NFC"}, "pre_tokenizer": BYTES, "post_processor": BERTS},
    "DeBERTa": {
        "normalizer": chain(
            replace(" ", "String", "\n"), PRECOMPILED, {"type": "Strip", "strip_left": True, "strip_right": True}
        ),
        "pre_tokenizer": chain(
            SPACES, {"type": "Punctuation", "behavior": "Isolated"}, {"type": "Digits", "individual_digits": True},
            name="pretokenizers",
        ),
        "post_processor": BERTS,
    },
    "SigLIP": {
        "normalizer": chain(
            {"type": "Lowercase"}, replace("", pattern=r"[!\"\#\$%]"), replace(" ", pattern=r"\s+"), PRECOMPILED
        ),
        "pre_tokenizer": SPACES,
    },
    "rules of one letter": {
        "normalizer": chain({"type": "NFKC"}, *[replace("'", pattern="[‘’]")] * 5, replace(" ", pattern=r"[\t\]]+")),
        "pre_tokenizer": BYTES,
    },
    "settings": {
        "padding": {"strategy": {"Fixed": 512}, "pad_to_multiple_of": 8, "pad_id": 151_643, "pad_token": "[PAD]"},
        "truncation": {"max_length": 384, "stride": 256, "strategy": "LongestFirst", "direction": "Right"},
        "model": {"vocab": {"a": 10**9}, "continuing_subword_prefix": "##", "max_input_chars_per_word": 100},
    },
}  # fmt: skip


def written(folder, **settings):
    """A tokenizer.json of a few words, with other settings."""
    words = {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1, "hat": 2}, "unk_token": "[UNK]"}
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": words, **settings}))
    return path


@pytest.mark.parametrize("family", LEGITIMATE)
def test_the_common_families_pass(family, tmp_path):
    check_tokenizer(written(tmp_path, **LEGITIMATE[family]))


@pytest.mark.parametrize("family", ["BERT", "RoBERTa", "CLIP", "Llama", "Gemma", "Qwen", "ModernBERT"])
def test_the_shapes_are_those_of_the_library(family, tmp_path):
    assert Tokenizer.from_file(str(written(tmp_path, **LEGITIMATE[family]))).encode("a hat").ids


DOUBLED = replace("aa", "String", "a")
PADDING = {"strategy": "BatchLongest", "pad_to_multiple_of": None}
REFUSED = {
    "doublings": {"normalizer": chain(*[DOUBLED] * 30)},
    "doublings of nested chains": {"normalizer": chain(chain(*[DOUBLED] * 6), chain(chain(*[DOUBLED] * 6)))},
    "text between all characters": {"normalizer": chain(*[replace("ab", pattern="(?=.)")] * 7)},
    "a long replacement": {"normalizer": replace("b" * 3000, "String", "a")},
    "prefixes": {"normalizer": {"type": "Prepend", "prepend": "a" * 3000}},
    "a sentence per letter": {
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap(3000)).decode()}
    },
    "letters of letters": {"normalizer": chain(*[replace("ﷺ", "String", " "), {"type": "NFKC"}] * 3)},
    "bytes of bytes": {"pre_tokenizer": chain(*[BYTES] * 20, name="pretokenizers")},
    "both together": {
        "normalizer": chain(*[DOUBLED] * 8),
        "pre_tokenizer": chain(*[BYTES] * 2, name="pretokenizers"),
    },
    "components": {"normalizer": chain(*[{"type": "Strip", "strip_left": True, "strip_right": True}] * 300)},
    "specials": {"post_processor": template(["A", *["[CLS]"] * 100])},
    "ids of a special": {"post_processor": template(["A", "[CLS]"], ids=100)},
    "the text several times": {"post_processor": chain(*[template(["A"] * 5)] * 5, name="processors")},
    "no type": {"normalizer": {"pattern": {"String": "a"}, "content": "aa"}},
    "a list": {"normalizer": chain(["a"])},
    "a new component": {"normalizer": {"type": "Repeat", "times": 9}},
    "a component under another name": {"normalizer": {**DOUBLED, "type": "Digits"}},
    "a chain under another name": {"normalizer": {"type": "Lowercase", "normalizers": [DOUBLED] * 30}},
    "a component elsewhere": {"pre_tokenizer": DOUBLED},
    "a template under another name": {"post_processor": {**template(["A"] * 100), "type": "ByteLevel"}},
    "no pattern": {"normalizer": {"type": "Replace", "content": "aa"}},
    "no object": {"normalizer": 3},
    "padding": {"padding": {**PADDING, "strategy": {"Fixed": 10**9}}},
    "a multiple": {"padding": {**PADDING, "pad_to_multiple_of": 10**9}},
    "overlaps": {"truncation": {"max_length": 512, "stride": 511}},
    "long words": {"model": {"type": "WordPiece", "vocab": {}, "max_input_chars_per_word": 10**9}},
    "a long prefix": {"model": {"type": "WordPiece", "vocab": {}, "continuing_subword_prefix": "#" * 10**4}},
    "added tokens": {"normalizer": chain(*[DOUBLED] * 10), "added_tokens": [{"content": "a" * 10_000}]},
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_multiplies_a_text_is_refused_in_a_sentence(case, tmp_path):
    written(tmp_path, **REFUSED[case])
    with pytest.raises(ModisteError, match=r"tokenizer\.json' .*: .*\.$"):
        check_folder(tmp_path)


def test_added_tokens_of_other_files_count(tmp_path):
    written(tmp_path, normalizer=chain(*[DOUBLED] * 10))
    check_folder(tmp_path)
    added = {"added_tokens_decoder": {"3": {"content": "a" * 10_000}}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(added))
    with pytest.raises(ModisteError, match="characters of its added tokens"):
        check_folder(tmp_path)


def test_versioned_files_are_checked_and_no_other_name_is_read(tmp_path):
    written(tmp_path, normalizer=chain(*[DOUBLED] * 30)).rename(tmp_path / "tokenizer.4.0.0.json")
    with pytest.raises(ModisteError, match="more than 2,048 characters"):
        check_folder(tmp_path)
    for key, value in (("fast_tokenizer_files", ["x_tokenizer.4.0.0.json"]), ("tokenizer_file", "vocab.json")):
        with pytest.raises(ModisteError, match=r"is no tokenizer\.json"):
            check_values({key: value}, "a config")


def field(number, content):
    size = len(content)
    return bytes([number * 8 + 2, size & 127 | 128, size >> 7]) + content


def test_a_table_of_sentencepiece_is_bounded(tmp_path):
    file = tmp_path / "spiece.model"
    for longest in (18, 1000):
        file.write_bytes(field(1, "▁a".encode()) + field(3, field(1, b"nmt_nfkc") + field(2, charsmap(longest))))
        if longest == 18:
            check_folder(tmp_path)
    with pytest.raises(ModisteError, match="more than 64 characters"):
        check_folder(tmp_path)
    file.write_bytes(b"\xff" * 9)
    with pytest.raises(ModisteError, match="is no SentencePiece model"):
        check_sentencepiece(file)
    file.write_bytes(b"IQ== 0\nIg== 1\n")  # tiktoken
    check_sentencepiece(file)


def test_the_tokenizer_of_an_index_is_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "session", lambda *args: "a session")
    write_checked(tmp_path / "tower.onnx", lambda path: path.write_bytes(b"x"), quick_digest)
    settings = json.dumps({"kind": "huggingface", "max_length": 8})
    write_checked(tmp_path / "tokenizer_settings.json", lambda path: path.write_text(settings), quick_digest)
    content = written(tmp_path, normalizer=chain(*[DOUBLED] * 30)).read_text()
    write_checked(tmp_path / "tokenizer.json", lambda path: path.write_text(content), quick_digest)
    with pytest.raises(ModisteError, match="more than 2,048 characters"):
        TextTower.read(tmp_path)

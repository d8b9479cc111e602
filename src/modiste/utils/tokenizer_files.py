"""Checks of untrusted tokenizer files for settings that multiply a text before it is truncated.

The package tokenizers applies every component of a ``tokenizer.json`` to the whole text; a few dozen replacements of a
by aa turn one letter into gigabytes. Each component therefore has a bound on its growth in characters, and so has the
product over the file.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from modiste.errors import ModisteError
from modiste.utils.nested import entries
from modiste.utils.protobuf import fields
from modiste.utils.run_dir import read_json

GROWTH = 2048
"""Limit on the characters per character of a text: ALBERT's NFKD, lower-casing, charsmap and metaspace make 1,296."""
TOKENS = 64
"""Limit on the tokens per token that post-processors make; BERT's template has five, of one text or two."""
CHARSMAP = 64
"""Limit on the characters per character of SentencePiece's table; those of NFKC make 18."""
COMPONENTS = 200
ADDED = 10_000_000
"""Limit on the characters of all added tokens, which are normalised when the file is loaded, after their growth."""
LIMITS = {"Fixed": 100_000, "pad_to_multiple_of": 100_000, "max_input_chars_per_word": 1000}
LIMITS |= dict.fromkeys(("continuing_subword_prefix", "end_of_word_suffix"), 100)
"""Key → largest number or longest text; WordPiece tries every part of a word, each with its prefix."""
FIXED = {
    "BertNormalizer": 6,  # spaces around an ideograph, or the letters of a Hangul syllable; and lower-casing
    "ByteLevel": 8,  # four bytes, and a space before each piece
    "Lowercase": 2,
    "Metaspace": 2,
    "NFC": 3,
    "NFD": 4,
    "NFKC": 18,  # U+FDFA is a sentence
    "NFKD": 18,
    "BertProcessing": 5,
    "RobertaProcessing": 5,
}
"""Component → most characters of one, where that is more than one and not a matter of its settings."""
BYTES = "add_prefix_space trim_offsets use_regex"
NORMALIZERS = {
    "BertNormalizer": "clean_text handle_chinese_chars strip_accents lowercase",
    "Precompiled": "precompiled_charsmap",
    "Prepend": "prepend",
    "Replace": "pattern content",
    "Sequence": "normalizers",
    "Strip": "strip_left strip_right",
    **dict.fromkeys(("ByteLevel", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "StripAccents"), ""),
}
PRE_TOKENIZERS = {
    "ByteLevel": BYTES,
    "CharDelimiterSplit": "delimiter",
    "Digits": "individual_digits",
    "FixedLength": "length",
    "Metaspace": "replacement prepend_scheme split add_prefix_space str_rep",
    "Punctuation": "behavior",
    "Sequence": "pretokenizers",
    "Split": "pattern behavior invert",
    **dict.fromkeys(("BertPreTokenizer", "UnicodeScripts", "Whitespace", "WhitespaceSplit"), ""),
}
POST_PROCESSORS = {
    "BertProcessing": "sep cls",
    "ByteLevel": BYTES,
    "RobertaProcessing": "sep cls trim_offsets add_prefix_space",
    "Sequence": "processors",
    "TemplateProcessing": "single pair special_tokens",
}
"""Component → its keys. Of other types and keys, tokenizers guesses what is meant."""
RUN = re.compile(r"( |\\s|\[(?:[^\[\]\\]|\\.)+\])(\+|\{[1-9]\d*,?\d*\})?")
"""Regular expressions that certainly match no empty text, between any two characters."""


def check_tokenizer(file: Path) -> None:
    """Check a ``tokenizer.json`` before the package tokenizers reads it.

    Args:
        file: The file; next to it may be other files with added tokens.

    Raises:
        ModisteError: The file is damaged, has a component that Modiste does not know, or makes far more of a text than
            a usual tokenizer.

    >>> from tempfile import TemporaryDirectory
    >>> twice = '{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}'
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder, "tokenizer.json")
    ...     _ = file.write_text(f'{{"normalizer": {{"type": "Sequence", "normalizers": [{", ".join([twice] * 30)}]}}}}')
    ...     check_tokenizer(file)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    modiste.errors.ModisteError: '...tokenizer.json' may make more than 2,048 characters of one: use another tokenizer.
    """
    content, where = read_json(file), f"'{file}'"
    try:
        text = _product(content.get("normalizer"), NORMALIZERS, where)
        text *= _product(content.get("pre_tokenizer"), PRE_TOKENIZERS, where)
        _limit(text, GROWTH, "characters of one", where)
        _limit(_product(content.get("post_processor"), POST_PROCESSORS, where), TOKENS, "tokens of one", where)
        _limit(_added(content, file.parent) * text, ADDED, "characters of its added tokens", where)
        _check_settings(content, where)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModisteError(f"{where} is not a tokenizer ({error!r}): save the model again.") from None


def check_sentencepiece(file: Path) -> None:
    """Check a SentencePiece model, whose table of characters normalises a text before it is truncated.

    Raises:
        ModisteError: The file is damaged, or makes far more of a text than a usual tokenizer.
        OSError: The file cannot be read.
    """
    content, where = file.read_bytes(), f"'{file}'"
    if content.isascii():  # of tiktoken, under the same names: base64, whereas a SentencePiece model has its ▁
        return
    try:
        specs = [part for number, part in fields(content) if number == 3 and part is not None]
        tables = [part for spec in specs for number, part in fields(spec) if number == 2 and part is not None]
    except ValueError as error:
        raise ModisteError(f"{where} is no SentencePiece model, as {error}: save the model again.") from None
    for table in tables:
        _limit(_charsmap(bytes(table)), CHARSMAP, "characters of one", where)


def _limit(made: int, limit: int, what: str, where: str) -> None:
    if made > limit:
        raise ModisteError(f"{where} may make more than {limit:,} {what}: use another tokenizer.")


def _product(component: Any, known: Mapping[str, str], where: str) -> int:
    parts = list(_flat(component, known, where))
    if len(parts) > COMPONENTS:
        raise ModisteError(f"{where} has {len(parts):,} components, more than {COMPONENTS}: use another tokenizer.")
    return math.prod(_growth(part) for part in parts)


def _flat(component: Any, known: Mapping[str, str], where: str) -> Iterator[Mapping[str, Any]]:
    """Yield the components of nested sequences, each of a known type and with its keys only."""
    found = [component]
    while found:
        part = found.pop()
        if part is None:
            continue
        kind = part.get("type")
        if kind not in known or not part.keys() <= {"type", *known[kind].split()}:
            raise ModisteError(
                f"{where} has the component {kind} with {', '.join(part)}, which Modiste does not read: use another "
                "tokenizer."
            )
        if kind == "Sequence":
            found += part[known[kind]]
        else:
            yield part


def _growth(part: Mapping[str, Any]) -> int:
    kind = part["type"]
    return MEASURED[kind](part) if kind in MEASURED else FIXED.get(kind, 1)


def _replaced(part: Mapping[str, Any]) -> int:
    ((kind, pattern),) = part["pattern"].items()
    length = len(part["content"])
    if kind == "String" and pattern:
        return max(1, math.ceil(length / len(pattern)))
    return max(1, length) if kind == "Regex" and RUN.fullmatch(pattern) else 1 + length


def _precompiled(part: Mapping[str, Any]) -> int:
    return _charsmap(base64.b64decode(part["precompiled_charsmap"] or "", validate=True))


def _charsmap(table: bytes) -> int:
    """Length of the longest replacement: they follow the trie, and each ends with a zero byte."""
    strings = table[4 + int.from_bytes(table[:4], "little") :]
    return max(map(len, [*strings.decode(errors="replace").split("\0"), "-"]))


def _template(part: Mapping[str, Any]) -> int:
    sizes = {name: len(special["ids"]) for name, special in part["special_tokens"].items()}

    def tokens(pieces: list[dict[str, Any]]) -> int:
        return sum(sizes[piece["SpecialToken"]["id"]] if "SpecialToken" in piece else 1 for piece in pieces)

    return max(1, tokens(part["single"]), tokens(part["pair"]))


MEASURED: dict[str, Callable[[Mapping[str, Any]], int]] = {
    "Precompiled": _precompiled,
    "Prepend": lambda part: 1 + len(part["prepend"]),
    "Replace": _replaced,
    "TemplateProcessing": _template,
}
"""Component → its growth, for those with a text of their own."""


def _added(content: Mapping[str, Any], folder: Path) -> int:
    """Number of characters of the added tokens, also of the files that transformers reads them from."""
    others = [read_json(folder / f"{name}.json") for name in ("tokenizer_config", "special_tokens_map", "added_tokens")]
    tokens = entries([content.get("added_tokens"), *others[:2]])
    return sum(len(str(value)) for key, value in tokens if key == "content") + sum(map(len, others[2]))


def _check_settings(content: Mapping[str, Any], where: str) -> None:
    model = {key: value for key, value in (content.get("model") or {}).items() if key not in ("vocab", "merges")}
    for key, value in entries([content.get("padding"), model]):
        size = len(value) if isinstance(value, str) else value
        if key in LIMITS and isinstance(size, int) and size > LIMITS[key]:
            raise ModisteError(f"{key} of {where} is more than {LIMITS[key]:,}: lower it.")
    truncation = content.get("truncation") or {"max_length": 0}
    longest = truncation["max_length"]
    if TOKENS * (longest - truncation.get("stride", 0)) < longest:  # the rest of a text is kept in overlapping pieces
        raise ModisteError(f"stride of {where} is nearly max_length: lower it.")

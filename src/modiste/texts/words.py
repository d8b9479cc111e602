"""A tokenizer without a vocabulary file: words hashed into buckets."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from modiste.utils.ranges import Range, Width

if TYPE_CHECKING:
    from modiste.models.dual_encoder import Tokens

WORD = re.compile(r"\w+|[^\w\s]")


class HashTokenizer:
    """Lower-cased words and punctuation marks, each hashed to one of ``buckets - 1`` ids; id 0 is padding.

    The "hashing trick" of Weinberger et al. 2009: nothing to download, nothing to fit, the same on every machine.

    Args:
        buckets: Number of ids.
        max_length: Longer texts are truncated to this number of tokens.

    >>> HashTokenizer()(["Red dress", "a red dress."])["attention_mask"].tolist()
    [[1, 1, 0, 0], [1, 1, 1, 1]]
    """

    def __init__(self, buckets: Annotated[int, Range(least=1, most=10_000_000)] = 8192, max_length: Width = 32) -> None:
        self.buckets, self.max_length = buckets, max_length

    def __call__(self, texts: Sequence[str]) -> Tokens:
        import torch  # here, since a search uses `ids` without it

        rows = self.ids(texts)
        length = max(1, max(map(len, rows)))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
        return {"input_ids": ids, "attention_mask": (ids > 0).long()}

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, at most ``max_length``."""
        return [[self._id(word) for word in WORD.findall(text.lower())[: self.max_length]] for text in texts]

    def _id(self, word: str) -> int:
        return 1 + zlib.crc32(word.encode()) % (self.buckets - 1)

"""A catalogue in memory and an embedder whose vectors the test chooses."""

import zlib
from types import SimpleNamespace

import numpy as np
import torch
from torch.nn import functional as F

from modiste.errors import ModisteError
from modiste.metrics.intervals import Interval
from modiste.tasks.result import Result


class FakeCatalogue:
    """Columns in memory, with the interface of modiste.data.catalogue.Catalogue that tasks use."""

    def __init__(self, columns, name="fake"):
        self.columns, self.card = columns, SimpleNamespace(name=name)
        self.columns.setdefault("row", list(range(len(columns["product_id"]))))

    def __len__(self):
        return len(self.columns["row"])

    @property
    def attributes(self):
        return [name for name in self.columns if name not in ("row", "product_id", "text", "split")]

    class_attributes = attributes  # which of them are classes is the real catalogue's matter

    def column(self, name):
        return self.columns[name]

    def select(self, split=None, rows=None):
        if split is not None:
            rows = [i for i, value in enumerate(self.columns["split"]) if value == split]
            if not rows:
                raise ModisteError(f"no rows in split '{split}'")
        return FakeCatalogue({name: [v[i] for i in rows] for name, v in self.columns.items()}, self.card.name)


class FakeEmbedder:
    """Images by their row; texts by a table, the others at random but the same every time."""

    fingerprint = "fake"

    def __init__(self, images, texts=None):
        self.rows, self.table = F.normalize(images, dim=1), texts or {}
        self.asked = []

    def images(self, catalogue):
        return self.rows[torch.tensor(catalogue.column("row"))]

    def texts(self, texts):
        self.asked.append(list(texts))
        return torch.stack([self.vector(text) for text in texts])

    def vector(self, text):
        vector = self.table.get(text)
        if vector is None:
            generator = np.random.default_rng(zlib.crc32(text.encode()))
            vector = torch.from_numpy(generator.normal(size=self.rows.shape[1])).float()
        return F.normalize(vector, dim=0)


class Gap:
    """A distance: better when lower, and nothing in its name says so."""

    def __call__(self, embedder, catalogue, split):
        part = catalogue.select(split=split)
        gap = float((embedder.images(part).mean(0) - embedder.texts(part.column("text")).mean(0)).norm())
        metrics = {"gap": Interval(gap, gap, gap, len(part))}
        return Result("gap", "tiny", split, metrics, higher_is_better={"gap": False}, primary="gap")

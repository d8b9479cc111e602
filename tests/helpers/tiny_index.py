"""Small catalogues with chosen embeddings, and indexes of them without a model."""

import hashlib

import numpy as np

from modiste import search
from modiste.data.catalogue import Card, Catalogue
from modiste.data.sources import ArrayImages
from modiste.search.build import Source, build
from modiste.search.encoder import ModelCard

DIM = 64
COLOURS = ("red", "blue", "green")
GENDERS = ("Men", "Women")
CARD = ModelCard("tiny", "f" * 64, {"size": 4}, DIM, "nowhere")


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def vector_of(word):
    """The embedding of a text or a photo: random, and the same for the same word."""
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "little")
    return unit(np.random.default_rng(seed).standard_normal(DIM))


def columns(count, views=2, titles=None, prices=None):
    """``count`` rows, ``views`` of each product; every seventh price is missing."""
    products = [f"SKU-{row // views}" for row in range(count)]
    return {
        "product_id": products,
        "image": [str(row) for row in range(count)],
        "text": titles or [f"title of {product.lower()}" for product in products],
        "pixels": [f"{row:040x}" for row in range(count)],
        "price": prices or ["" if row % 7 == 6 else str(row % 90) for row in range(count)],
        "gender": [GENDERS[row // views % 2] for row in range(count)],
        "colour": [COLOURS[row // views % 3] for row in range(count)],
        "brand": [f"Brand{row // views % 11}" for row in range(count)],
    }


def catalogue(table):
    count = len(table["text"])
    return Catalogue.build(Card("tiny"), table, ArrayImages(np.zeros((count, 4, 4), np.uint8)))


def source(table, card=CARD):
    return Source(card, vectors={pixels: vector_of(pixels) for pixels in table["pixels"]})


class Embedder:
    """Embeds texts and pixels by `vector_of`, and counts texts."""

    def __init__(self, known=None):
        self.known, self.asked = known or {}, []

    def texts(self, texts):
        self.asked += texts
        return np.stack([self.known.get(text, vector_of(text)) for text in texts])

    def pictures(self, images):
        return np.stack([vector_of(image.tobytes().hex()) for image in images])


def make_index(folder, table, engine=None):
    build(folder, catalogue(table), source(table), engine=engine)
    index = search.open(folder)
    index.embedder = Embedder()
    return index


def vectors(table):
    return np.stack([vector_of(pixels) for pixels in table["pixels"]])

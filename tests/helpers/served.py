"""Tiny indexes of synthetic garments, and servers over them that listen."""

import base64
import contextlib
import io
import threading
import time
from types import SimpleNamespace

from helpers.commands import TINY

VIEWS = 2
PRODUCTS = 24
TEMPERATURE = 12.0
"""exp(logit scale) of the model."""


def make_index(folder, seed, products=PRODUCTS):
    """An index of ``products`` garments with two views each, by a random model."""
    import torch
    from omegaconf import OmegaConf

    from modiste.config import compose
    from modiste.models.load import build_model
    from modiste.search.build import Source, build

    cfg = compose("train", [*TINY, "image.size=96"])  # a grid of 3 × 3 patches
    torch.manual_seed(seed)
    model = build_model(cfg).eval()
    model.initial_scale = TEMPERATURE
    node = {name: OmegaConf.to_container(cfg[name], resolve=True) for name in ("model", "tune")}
    build(folder, garments(products), Source.of_model(model, f"tiny {seed}", node, export_text=False))
    return folder


def garments(products=PRODUCTS):
    """Synthetic garments, two photos each, with a price."""
    from modiste.data.synthetic import Synthetic

    catalogue = Synthetic(products=products, views=VIEWS, size=48)()
    return catalogue.replace_column("price", [str(5 + 7 * (row // VIEWS) % 90) for row in range(len(catalogue))])


def data_url(image, form="PNG"):
    """A PIL image as clients send it."""
    content = io.BytesIO()
    image.save(content, form)
    return f"data:image/{form.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"


@contextlib.contextmanager
def running(app):
    """The address of a server that answers; it is shut down as by Ctrl-C."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield SimpleNamespace(url=f"http://127.0.0.1:{port}", stop=lambda: setattr(server, "should_exit", True))
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server does not stop"

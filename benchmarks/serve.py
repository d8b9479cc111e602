"""Rows 23 and 24: the server under 64 concurrent queries against LitServe, 10,000 requests, and the page while typing.

The catalogue has KAGL's size (44,000 products) with random vectors; the text tower is MiniLM. Ours answers with titles,
attributes, the match threshold and counts, the peer with ids and scores of an exact search in the same vectors.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import multiprocessing
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import harness
import litserve
import numpy as np
import torch
from harness import Row

from embedding import captions
from modiste.embedding.backends import without_padding

CONCURRENT = 64
BATCH, WAIT = 32, 0.005
COLOURS = ["Black", "White", "Blue", "Brown", "Grey", "Red", "Green", "Pink", "Navy Blue", "Purple"]
SETTINGS = ["image=lite", "image.size=96", "text=minilm", "text.max_length=24", "model.embed_dim=256", "data=synthetic"]

MADE = "random unit vectors, 64 photos"
"""What the index is made of; every row's note says so."""


def index_of(folder: Path, count: int) -> Path:
    """An index of ``count`` products with random unit vectors and 64 different photos (`MADE`)."""
    from omegaconf import OmegaConf

    from modiste.config import compose
    from modiste.data.catalogue import Card, Catalogue
    from modiste.data.sources import BytesImages
    from modiste.data.synthetic import Synthetic
    from modiste.models.load import build_model
    from modiste.search.build import Source, build

    garments, photos = Synthetic(products=64, views=1, size=96)(), []
    for row in range(len(garments)):
        content = io.BytesIO()
        garments.read_image(row).save(content, "JPEG")
        photos.append(content.getvalue())
    generator, names = np.random.default_rng(0), [str(row) for row in range(count)]
    columns = {
        "product_id": [f"p{name}" for name in names],
        "image": [str(row % 64) for row in range(count)],
        "text": captions(count),
        "pixels": names,
        "colour": generator.choice(COLOURS, count).tolist(),
        "gender": generator.choice(["Men", "Women", "Unisex"], count).tolist(),
        "price": generator.integers(5, 200, count).astype(str).tolist(),
    }
    vectors = generator.standard_normal((count, 256)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cfg = compose("train", SETTINGS)
    torch.manual_seed(0)
    node = {name: OmegaConf.to_container(cfg[name], resolve=True) for name in ("model", "tune")}
    known = dict(zip(names, vectors, strict=True))
    source = Source.of_model(build_model(cfg).eval(), "benchmark", node, vectors=known, export_text=False)
    build(folder, Catalogue.build(Card("benchmark"), columns, BytesImages(photos)), source)
    return folder


# ------------------------------------------------------------------------------------------------------- the servers


@contextmanager
def ours(index: Path, backend: str) -> Iterator[tuple[int, int]]:
    """`modiste serve` in a separate process: its port and process id."""
    port = free_port()
    command = [sys.executable, "-m", "modiste", "serve", f"index={index}", f"port={port}", f"backend={backend}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        answers(port, "/health", process)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def theirs(index: Path) -> Iterator[int]:
    """LitServe with the same model, vectors and batch limits, in a separate process: its port."""
    port = free_port()
    process = multiprocessing.get_context("spawn").Process(target=serve_theirs, args=(str(index), port))
    process.start()
    try:
        answers(port, "/health", process)
        yield port
    finally:
        for child in children(process.pid):
            os.kill(child, 15)
        process.terminate()
        process.join(60)


def serve_theirs(index: str, port: int) -> None:
    """Run the peer until it is ended."""
    server = litserve.LitServer(
        Search(index, max_batch_size=BATCH, batch_timeout=WAIT), accelerator="cpu", workers_per_device=1, timeout=60
    )
    server.run(port=port, host="127.0.0.1", generate_client_file=False, log_level="error")


class Search(litserve.LitAPI):
    """The peer as its documentation serves a model: encode the batch, score all rows, the ten best."""

    def __init__(self, index: str, **options: Any) -> None:
        super().__init__(**options)
        self.path = index

    def setup(self, device: str) -> None:
        import modiste.search

        index = modiste.search.open(self.path)
        self.model, self.vectors = index.model, torch.from_numpy(np.array(index.snapshot.vectors))
        self.ids = index.snapshot.table.column("product_id").to_pylist()

    def decode_request(self, request: dict) -> str:
        return request["text"]

    @torch.inference_mode()
    def predict(self, texts: Any) -> list:
        queries = self.model.encode_text(without_padding(self.model.tokenizer(texts)))
        best = (queries @ self.vectors.T).topk(10)
        return list(zip(best.values.tolist(), best.indices.tolist(), strict=True))

    def encode_response(self, output: Any) -> dict:
        scores, rows = output
        return {"scores": scores, "product_ids": [self.ids[row] for row in rows]}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def answers(port: int, path: str, process: Any, seconds: float = 300) -> None:
    """Wait for a server. Raises RuntimeError where it does not come up."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).read()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"{process} does not answer")


def children(pid: int) -> list[int]:
    """Processes that a process started, theirs as well."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [child for one in found for child in (*children(int(one)), int(one))]


# ---------------------------------------------------------------------------------------------------------- the load


def load(port: int, path: str, bodies: Sequence[dict]) -> tuple[float, list[float]]:
    """Requests per second and the seconds of each, from `CONCURRENT` connections that stay open."""

    async def client(queue: list[bytes], taken: list[float]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while queue:
            start = time.perf_counter()
            writer.write(queue.pop())
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head.split(b"\r\n", 1)[0]:
                raise RuntimeError(head.decode())
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
            await reader.readexactly(int(length.split(b":")[1]))
            taken.append(time.perf_counter() - start)
        writer.close()

    async def run() -> tuple[float, list[float]]:
        requests, taken = [request(path, body) for body in bodies], list[float]()
        start = time.perf_counter()
        await asyncio.gather(*(client(requests, taken) for _ in range(CONCURRENT)))
        return len(bodies) / (time.perf_counter() - start), taken

    return asyncio.run(run())


def request(path: str, body: dict) -> bytes:
    """An HTTP request."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def queries(count: int, start: int = 0) -> list[dict]:
    """Bodies of different queries."""
    return [{"text": f"{text} {start + row}", "k": 10} for row, text in enumerate(captions(count))]


def p95(seconds: Sequence[float]) -> float:
    """In milliseconds."""
    return 1000 * float(np.percentile(seconds, 95))


# ---------------------------------------------------------------------------------------------------------- the rows


def against_the_peer(index: Path, count: int, rounds: int) -> Iterator[Row]:
    """Queries per second and p95, with torch in both and with what ours takes by itself."""
    for backend in ("torch", "auto"):
        with ours(index, backend) as (mine, _), theirs(index) as peer:
            if backend == "auto":
                settled(mine)
            ports = {"ours": (mine, "/search"), "theirs": (peer, "/predict")}
            found: dict[str, list] = {name: [] for name in ports}
            for number in range(-1, rounds):  # the first warms up
                for name in list(ports) if number % 2 == 0 else list(ports)[::-1]:
                    measured = load(*ports[name], queries(count, number * count))
                    found[name] += [measured] if number >= 0 else []
            used = json.load(urllib.request.urlopen(f"http://127.0.0.1:{mine}/health"))
        text = used["indexes"]["main"]["backends"]["text"]
        what = f"{CONCURRENT} concurrent text queries over {size(index):,} products, MiniLM on {text}"
        peers = "LitServe, same model on torch, same batch limits"
        rates = {name: statistics.median(rate for rate, _ in runs) for name, runs in found.items()}
        slow = {name: statistics.median(p95(taken) for _, taken in runs) for name, runs in found.items()}
        yield Row(23, what, peers, "rate", rates["ours"], rates["theirs"], "queries/s",
                  rates["ours"] / rates["theirs"], 1, 1.5, MADE)  # fmt: skip
        yield Row(23, what, peers, "time", slow["ours"], slow["theirs"], "ms", slow["theirs"] / slow["ours"], 1, 1.5,
                  f"95th percentile; {MADE}")  # fmt: skip


def settled(port: int) -> None:
    """Wait until backends were chosen."""
    for _ in range(240):
        metrics = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
        if 'modiste_backend_info{backend="' in metrics and 'tower="image"' in metrics.split("modiste_backend_info")[-1]:
            return
        time.sleep(0.5)


def soak(index: Path, count: int) -> Iterator[Row]:
    """Memory and descriptors after ``count`` requests of all kinds, against those after a tenth of them."""
    with ours(index, "torch") as (port, pid):
        photo = urllib.request.urlopen(f"http://127.0.0.1:{port}/image/0").read()
        image = base64.b64encode(photo).decode()
        kinds = [{"text": "red dress"}, {"like": "p3", "text": "blue"}, {"image": image}, {"where": "price < 50"}]
        bodies = [{**kinds[row % 4], "k": 10, "facets": row % 8 == 0} for row in range(count)]
        load(port, "/search", bodies[: count // 10])
        before = state(pid)
        load(port, "/search", bodies[count // 10 :])
        after = state(pid)
    what = f"{count:,} requests: words, product, photo, filter"
    yield Row(23, what, f"after the first {count // 10:,}", "memory", after[0], before[0], "MiB", before[0] / after[0],
              1 / 1.05, 1 / 1.02, f"open descriptors {before[1]} and {after[1]}; {MADE}")  # fmt: skip


def state(pid: int) -> tuple[float, int]:
    """Resident memory (MiB) and open descriptors of a process, at rest."""
    time.sleep(2)
    status = Path(f"/proc/{pid}/status").read_text()
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(resident.split()[1]) / 1024, len(os.listdir(f"/proc/{pid}/fd"))


def typing(index: Path, count: int) -> Iterator[Row]:
    """From the last key to the first results on the screen, in headless Chromium."""
    from playwright.sync_api import sync_playwright

    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    watch = """() => {
      const input = document.querySelector('input[type=search]');
      input.addEventListener('input', () => { window.typed = performance.now(); });
      new MutationObserver(() => requestAnimationFrame(() => { window.seen = performance.now(); }))
        .observe(document.querySelector('[aria-label=Results]'), { childList: true });
    }"""
    taken = []
    with ours(index, "auto") as (port, _), sync_playwright() as playwright:
        settled(port)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector(".card")
        page.evaluate(watch)
        for body in queries(count):
            page.evaluate("window.seen = window.typed = 0")
            page.get_by_label("Query").fill("")
            page.wait_for_timeout(400)
            page.evaluate("window.seen = window.typed = 0")
            page.get_by_label("Query").press_sequentially(body["text"][:24], delay=60)
            page.wait_for_timeout(600)
            taken.append(page.evaluate("window.seen - window.typed"))
        browser.close()
    middle, slow = statistics.median(taken), np.percentile(taken, 95)
    what = f"page over {size(index):,} products: first results after the last key"
    note = f"95th percentile {slow:.0f} ms; {MADE}"
    yield Row(24, what, "300 ms", "time", middle, 300, "ms", 300 / middle, 1, 3, note)


def size(index: Path) -> int:
    """Number of products."""
    import modiste.search

    return len(modiste.search.open(index))


def rows(quick: bool) -> Iterator[Row]:
    """The index is made once; the servers run in separate processes, this one is the load."""
    with tempfile.TemporaryDirectory() as folder:
        index = index_of(Path(folder) / "bench.index", 500 if quick else 44_000)
        if harness.wanted(23):
            yield from against_the_peer(index, 128 if quick else 1024, 1 if quick else 3)
            yield from soak(index, 200 if quick else 10_000)
        if harness.wanted(24):
            yield from typing(index, 2 if quick else 20)


if __name__ == "__main__":
    harness.main(__file__, rows)

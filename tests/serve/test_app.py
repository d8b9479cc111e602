"""The HTTP API as clients use it, against a server that listens."""

import asyncio
import base64
import io
import json
import shutil
import socket
import threading
import time
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import numpy as np
import pytest
from PIL import Image

from helpers.served import TEMPERATURE, data_url, garments, make_index, running


@pytest.fixture(scope="module")
def index(indexes):
    import modiste.search

    return modiste.search.open(indexes[0])


def ids(answer):
    return [product["product_id"] for product in answer["results"]]


def ok(response):
    assert response.status_code == 200, response.text
    return response.json()


# ------------------------------------------------------------------------------------------------------------ search


def test_a_search_answers_as_the_index_does(client, index):
    answer = ok(client.post("/search", json={"text": "red dress", "k": 7}))
    found = index.search(text="red dress", k=7)
    assert ids(answer) == found.table.column("product_id").to_pylist()
    scores = [product["score"] for product in answer["results"]]
    assert scores == pytest.approx(found.table.column("score").to_pylist(), abs=1e-5)
    assert (answer["exactness"], answer["version"]) == (str(found.exactness), index.version)
    assert answer["count"] == found.passing == len(index)
    first = answer["results"][0]
    assert len(first["views"]) == 2  # one result per product, both photos inside
    assert first["title"]
    assert first["attributes"]["price"] > 0


def test_an_approximate_plan_is_used_and_said(tmp_path, monkeypatch):
    import httpx

    import modiste.search
    from modiste.search import planner
    from modiste.serve.app import create_app
    from modiste.serve.settings import Settings

    monkeypatch.setattr(planner, "LIMIT_SIZES", (5,))
    index = modiste.search.open(make_index(tmp_path / "plan.index", seed=0))
    index.plan(["binary"], recall_floor=0.1)
    expected = index.search(text="red dress", k=10)
    assert str(expected.exactness).startswith("approximate, recall@10 ")
    settings = Settings(str(index.path), backend="torch")
    with running(create_app(settings)) as served, httpx.Client(base_url=served.url, timeout=30) as client:
        answer = ok(client.post("/search", json={"text": "red dress", "k": 10}))
        most = ok(client.post("/search", json={"text": "red dress", "k": 101}))
    assert answer["exactness"] == str(expected.exactness)
    assert ids(answer) == expected.table.column("product_id").to_pylist()
    assert most["exactness"] == "exact"


def test_address_json_and_upload_give_the_same_answer(client, index):
    asked = {"text": "blue shirt", "where": "price < 60", "k": 5}
    by_json, by_address = ok(client.post("/search", json=asked)), ok(client.get("/search", params=asked))
    assert by_json["results"] == by_address["results"]
    photo = index.image(3)
    content = base64.b64decode(data_url(photo).partition(",")[2])
    uploaded = ok(client.post("/search/upload", files={"image": ("a.png", content)}, data={"k": "5"}))
    pasted = ok(client.post("/search", json={"image": data_url(photo), "k": 5}))
    assert uploaded["results"] == pasted["results"]
    assert pasted["results"][0]["row"] == 3
    assert pasted["results"][0]["score"] > 0.9  # the index keeps a JPEG of what it embedded


def test_like_this_but(client, index):
    product = index.snapshot.table.column("product_id")[0].as_py()
    plain = ok(client.get("/similar", params={"product_id": product, "k": 6}))
    assert ids(plain) == index.search(like=product, k=6).table.column("product_id").to_pylist()
    for filters in ({}, {"price": {"min": 0}}):
        every = ok(client.post("/search", json={"like": product, "k": 50, "facets": True, "filters": filters}))
        assert every["products"] == len(every["results"]) == index.count_products() - 1
        for name, values in every["facets"].items():
            shown = Counter(filter(None, (one["attributes"][name] for one in every["results"])))
            assert {value["value"]: value["count"] for value in values} == shown
    mixed = ok(client.post("/search", json={
        "like": product, "text": "red", "minus": "blue", "weights": {"text": 0.8, "like": 0.2}, "k": 6,
    }))  # fmt: skip
    expected = index.search(like=product, text="red", minus="blue", weights={"text": 0.8, "like": 0.2}, k=6)
    assert (mixed["threshold"], mixed["uncalibrated"]) == (None, expected.uncalibrated)
    assert "since the query is mixed" in mixed["uncalibrated"]
    assert ids(mixed) == expected.table.column("product_id").to_pylist()


def test_filters_by_column_are_those_of_sql_and_their_values_are_only_values(client, index):
    column = next(name for name in index.attributes if index.types[name] == "text" and len(index.facets()[name]) > 1)
    value = next(iter(index.facets()[column]))
    filters = {column: {"values": [value]}, "price": {"min": 10, "max": 70}}
    answer = ok(client.post("/search", json={"text": "x", "k": 50, "filters": filters}))
    where = f"`{column}` = '{value}' and price >= 10 and price <= 70"
    assert answer["count"] == index.count(where) > 0
    assert all(product["attributes"][column] == value for product in answer["results"])
    hostile = {column: {"values": ["it's", "' or true or '"]}}
    assert ok(client.post("/search", json={"text": "x", "filters": hostile}))["count"] == 0
    unknown = client.post("/search", json={"filters": {"x` or true": {"values": ["a"]}}})
    assert unknown.status_code == 422
    assert "no column" in unknown.json()["error"]["message"]


def test_without_a_query_the_catalogue_is_listed_and_its_facets_are_counted(client, index):
    answer = ok(client.post("/search", json={"k": 5, "facets": True, "where": "price < 60"}))
    assert len(ids(answer)) == 5
    assert all(product["score"] is None for product in answer["results"])
    rows = [row for row in index.snapshot.table.to_pylist() if row["price"] < 60]
    assert answer["count"] == len(rows)
    assert answer["products"] == len({row["product_id"] for row in rows}) < len(rows)
    for name, values in answer["facets"].items():
        having = {value: {row["product_id"] for row in rows if row[name] == value} for value in index.facets()[name]}
        assert {entry["value"]: entry["count"] for entry in values} == {v: len(ids) for v, ids in having.items() if ids}
    views = ok(client.post("/search", json={"group": False, "facets": True, "where": "price < 60"}))
    for name, values in views["facets"].items():
        assert {entry["value"]: entry["count"] for entry in values} == {
            value: count for value, count in index.facets("price < 60")[name].items() if value
        }
    assert ok(client.get("/facets", params={"where": "price < 60"}))["facets"] == answer["facets"]


def test_a_chosen_value_leaves_the_other_values_of_its_column_to_be_chosen(client, index):
    whole = ok(client.post("/search", json={"facets": True}))["facets"]
    column, other = [name for name, values in whole.items() if len(values) > 1][:2]
    chosen = ok(
        client.post("/search", json={"facets": True, "filters": {column: {"values": [whole[column][0]["value"]]}}})
    )
    assert chosen["facets"][column] == whole[column]
    assert chosen["products"] == whole[column][0]["count"]
    assert sum(entry["count"] for entry in chosen["facets"][other]) <= chosen["products"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"text": "x", "where": "nope = 1"}, "no column 'nope'"),
        ({"like": "no-such-product"}, "no such product"),
        ({"text": "x", "k": 100_000}, "ask for fewer"),
        ({"text": "x", "k": 0}, "k:"),
        ({"txt": "x"}, "txt"),
        ({"text": "x", "filters": {"price": {}}}, "values, min or max"),
        ({"text": "x", "weights": {"colour": 1}}, "weights"),
        ({"minus": "red"}, "The query is empty"),
        ({"image": "/etc/passwd"}, "paths and URLs"),
    ],
)
def test_a_mistake_is_answered_by_a_sentence(client, body, says):
    response = client.post("/search", json=body)
    assert response.status_code == 422
    assert says in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/image/99999999999999999999999999", None),
        ("GET", "/image/-1", None),
        ("GET", "/image/" + 5000 * "9", None),
        ("GET", "/facets?where=" + 3000 * "(", None),
        ("GET", "/search?where=" + 400 * "not%20", None),
        ("GET", "/facets?where=row%20%3C%20" + 1900 * "1" + "a", None),
        ("GET", "/facets?where=row%20%3C%20" + 30_000 * "1" + "a", None),
        ("GET", "/facets?where=row%20%3C%20" + 5000 * "0" + "1", None),
        ("POST", "/search", {"filters": {"split": {"values": ["x" * 2000] * 60}}}),
        ("POST", "/v1/embeddings", {"input": 10_000 * "x"}),
        ("GET", f"/search?k={10**30}", None),
        ("GET", f"/catalogue-health/duplicates?limit={10**30}", None),
        ("POST", "/ground", {"row": 10**30, "phrases": ["collar"]}),
        ("POST", "/ground", {"row": 2**62, "phrases": ["collar"]}),
        ("POST", "/zero-shot", {"row": -(10**30), "labels": ["dress"]}),
        ("POST", "/search", {"text": "x", "where": "price < 99999999999999999999999999"}),
        ("POST", "/search", {"text": "x", "where": "row in (99999999999999999999)"}),
        ("POST", "/search", {"text": "x", "filters": {"price": {"min": 1e400}}}),
        ("POST", "/search", {"text": "\ud800"}),
        ("POST", "/v1/embeddings", {"input": "x", "dimensions": 10**30}),
        ("POST", "/zero-shot/attribute", {"attribute": "colour", "where": 300 * "("}),
        ("POST", "/judge/queries", {"file": 200_000 * "x"}),
    ],
)
def test_numbers_and_depths_out_of_range_are_answered_by_a_sentence(client, method, path, body):
    content = None if body is None else json.dumps(body)
    response = client.request(method, path, content=content, headers={"content-type": "application/json"})
    assert 400 <= response.status_code < 500, response.text
    assert response.json()["error"]["message"]


def test_photos_come_as_thumbnails_and_larger(client, index):
    small, large = client.get("/image/3"), client.get("/image/3", params={"large": True})
    assert Image.open(io.BytesIO(small.content)).get_format_mimetype() == small.headers["content-type"]
    assert Image.open(io.BytesIO(large.content)).size == index.image(3).size
    product = index.snapshot.table.column("product_id")[3].as_py()
    assert client.get("/image", params={"product_id": product}).status_code == 200
    assert client.get("/image/99999").status_code == 404
    assert client.get("/image", params={"product_id": "none"}).status_code == 404
    assert client.get("/image/0", params={"index": "third"}).status_code == 404


# -------------------------------------------------------------------------------------------------- classify, ground


def test_zero_shot_is_the_cosine_of_the_mean_prompt(client, index):
    import torch
    from torch.nn import functional as F

    labels, prompts = ["dress", "shirt", "shoe"], ["a {}", "photo of a {}"]
    answer = ok(client.post("/zero-shot", json={"row": 2, "labels": labels, "prompts": prompts}))
    model = index.model
    with torch.inference_mode():
        image = model.encode_image(model.preprocess(index.image(2))[None])[0]
        texts = model.encode_text(model.tokenizer([p.replace("{}", label) for label in labels for p in prompts]))
        cosines = F.normalize(texts.reshape(3, 2, -1).mean(1), dim=-1) @ image
    found = {entry["label"]: entry for entry in answer["labels"]}
    assert [found[label]["cosine"] for label in labels] == pytest.approx(cosines.tolist(), abs=1e-5)
    shares = torch.softmax(TEMPERATURE * cosines, dim=0).tolist()
    assert [found[label]["probability"] for label in labels] == pytest.approx(shares, abs=1e-4)
    assert (answer["scale"], answer["scale_known"]) == (pytest.approx(TEMPERATURE), True)
    shown = [entry["cosine"] for entry in answer["labels"]]
    assert shown == sorted(shown, reverse=True)
    refused = client.post("/zero-shot", json={"row": 2, "labels": labels, "prompts": ["no slot"]})
    assert "exactly one {}" in refused.json()["error"]["message"]
    both = client.post("/zero-shot", json={"row": 2, "image": "x", "labels": labels})
    assert "either row or image" in both.json()["error"]["message"]


def test_the_second_index_s_photos_are_looked_at_by_its_model(client, indexes):
    import modiste.search

    model = modiste.search.open(indexes[1])
    embedder = model.embedder
    labels, body = ["dress", "shirt"], {"row": 2, "index": "compare"}
    cosines = embedder.texts(labels) @ embedder.pictures([model.image(2)])[0]
    answer = ok(client.post("/zero-shot", json=body | {"labels": labels, "prompts": ["{}"]}))
    found = {entry["label"]: entry["cosine"] for entry in answer["labels"]}
    assert [found[label] for label in labels] == pytest.approx(cosines.tolist(), abs=1e-5)
    answer = ok(client.post("/ground", json=body | {"phrases": labels}))
    assert [one["cosine"] for one in answer["maps"]] == pytest.approx(cosines.tolist(), abs=1e-5)


def test_the_confusions_of_an_attribute_are_those_of_the_zero_shot_task(client, index):
    from modiste.embedding.embedder import ModelEmbedder
    from modiste.tasks.zeroshot import ZeroShot

    catalogue = garments()
    catalogue = catalogue.replace_column("split", ["test"] * len(catalogue))
    column = next(name for name in index.attributes if index.types[name] == "text" and len(index.facets()[name]) > 2)
    prompts = ["a photo of a {}"]
    expected = ZeroShot([column], {column: prompts}, resamples=10)(ModelEmbedder(index.model), catalogue, "test")
    answer = ok(client.post("/zero-shot/attribute", json={"attribute": column, "prompts": prompts}))
    assert answer["classes"] == expected.confusion[column]["labels"]
    assert answer["matrix"] == expected.confusion[column]["matrix"]
    assert answer["weighted_f1"] == pytest.approx(expected.metrics[f"{column}/weighted_f1"].value)
    for cell, products in answer["cells"].items():
        truth, _ = map(int, cell.split(","))
        assert {product["attributes"][column] for product in products} == {answer["classes"][truth]}
    changed = ok(
        client.post("/zero-shot/attribute", json={"attribute": column, "words": {answer["classes"][0]: "zebra"}})
    )
    assert changed["matrix"] != answer["matrix"]
    assert client.post("/zero-shot/attribute", json={"attribute": "price"}).status_code == 200
    assert "no column" in client.post("/zero-shot/attribute", json={"attribute": "x"}).json()["error"]["message"]


@pytest.mark.parametrize("method", ["patches", "cam", "gradcam", pytest.param("occlusion", marks=pytest.mark.slow)])
def test_ground_gives_the_model_s_own_maps(client, index, method):
    import torch

    from modiste.models.grounding import METHODS
    from modiste.models.heatmaps import input_pixels, on_image, resized

    answer = ok(client.post("/ground", json={"row": 1, "phrases": ["sleeve", "collar"], "method": method}))
    model, photo = index.model, index.image(1)
    with torch.inference_mode():
        texts = model.encode_text(model.tokenizer(["sleeve", "collar"]))
    wide = resized(model, 384)[0]
    maps = METHODS[method](wide, input_pixels(wide, photo), texts)
    shape = (answer["maps"][0]["height"], answer["maps"][0]["width"])
    expected = on_image(maps, photo.size, shape).numpy()
    for one, wanted in zip(answer["maps"], expected, strict=True):
        values = np.frombuffer(base64.b64decode(one["values"]), np.uint8).reshape(shape)
        assert np.abs(values / 255 - wanted).max() < 0.01
    assert [one["phrase"] for one in answer["maps"]] == ["sleeve", "collar"]
    for one, found in zip(answer["maps"], model.ground(photo, ["sleeve", "collar"], method), strict=True):
        assert one["score"] == pytest.approx(found.score, abs=1e-5)
        assert np.abs(np.subtract(one["box"], found.box)).max() <= np.ceil(max(photo.size) / max(shape)) + 1


# -------------------------------------------------------------------------------------------------------- embeddings


def test_embeddings_are_the_model_s_own_in_openai_s_shape(client, index):
    import torch

    photo = index.image(0)
    inputs = ["red dress", data_url(photo), {"text": "shoe"}, {"image": data_url(photo).partition(",")[2]}]
    answer = ok(client.post("/v1/embeddings", json={"input": inputs}))
    assert answer["object"] == "list"
    assert [entry["index"] for entry in answer["data"]] == [0, 1, 2, 3]
    made = torch.tensor([entry["embedding"] for entry in answer["data"]])
    model = index.model
    with torch.inference_mode():
        texts = model.encode_text(model.tokenizer(["red dress", "shoe"]))
        image = model.encode_image(model.preprocess(photo)[None])
    expected = torch.stack([texts[0], image[0], texts[1], image[0]])
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-4)
    packed = ok(
        client.post("/v1/embeddings", json={"input": "red dress", "encoding_format": "base64", "dimensions": 8})
    )
    short = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4")
    prefix = texts[0, :8] / texts[0, :8].norm()
    assert short == pytest.approx(prefix.numpy(), abs=1e-5)
    assert packed["usage"]["total_tokens"] > 0


def test_openai_s_own_client_reads_them(server):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    model = client.models.list().data[0].id
    answer = client.embeddings.create(model=model, input=["red dress", "shoe"], dimensions=16)  # asks for base64 itself
    assert [len(entry.embedding) for entry in answer.data] == [16, 16]
    assert np.linalg.norm(answer.data[0].embedding) == pytest.approx(1, abs=1e-5)
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="text-embedding-3-small", input="x")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"input": []}, "give 1 to 100"),
        ({"input": ["x"] * 101}, "give 1 to 100"),
        ({"input": ["x", " "]}, "Input 1 is empty"),
        ({"input": "x", "dimensions": 10_000}, "more than the model's"),
        ({"input": [1, 2, 3]}, "input"),
        ({"input": "data:image/png;base64,AAAA"}, "cannot be read"),
    ],
)
def test_embeddings_refuse_what_they_cannot_do(client, body, says):
    response = client.post("/v1/embeddings", json=body)
    assert response.status_code in (415, 422)
    assert says in response.json()["error"]["message"]


# ----------------------------------------------------------------------------------------------------------- compare


def test_a_photo_that_only_one_index_has_does_not_say_which(client, indexes, monkeypatch):
    from modiste.serve.live import Held

    row_of = Held.row_of
    monkeypatch.setattr(
        Held, "row_of", lambda self, name: None if str(self.index.path) == str(indexes[0]) else row_of(self, name)
    )
    asked = ok(client.post("/compare/queries", json={"file": "red dress"}))
    for product in asked["queries"][0]["results"]:
        assert "index=" not in product["image"]
        assert client.get(f"/{product['image']}").status_code == 200


def test_a_blind_comparison_credits_each_result_to_its_index(client, indexes):
    import modiste.search

    file = "red dress\nblue shirt\nshoe"
    asked = ok(client.post("/compare/queries", json={"file": file}))
    assert not {"main", "compare"} & set(str(asked["queries"]).split("'"))  # blind
    for entry in asked["queries"]:
        for product in entry["results"]:
            assert client.get(f"/{product['image']}").status_code == 200
    picked = [[entry["results"][0]["product_id"]] for entry in asked["queries"]]
    judged = {name: asked[name] for name in ("seed", "versions")} | {"file": file, "picked": picked}
    verdict = ok(client.post("/compare/judge", json=judged))
    assert sum(verdict["wins"].values()) == 3
    rankings = [
        modiste.search.open(folder).search(text="shoe", k=10).table.column("product_id").to_pylist()
        for folder in indexes
    ]
    for product, team in zip(asked["queries"][2]["results"], verdict["credited"][2], strict=True):
        sides = {"main": rankings[0], "compare": rankings[1]}
        assert all(product["product_id"] in sides[side] for side in (sides if team == "both" else [team]))
    stale = client.post("/compare/judge", json=judged | {"versions": {"main": "x", "compare": "y"}})
    assert stale.status_code == 409


def test_two_indexes_answer_side_by_side(client):
    answer = ok(client.post("/compare/search", json={"text": "red dress", "k": 8}))
    assert set(answer["shared"]) == set(ids(answer["main"])) & set(ids(answer["compare"]))
    assert ids(answer["main"]) != ids(answer["compare"])


# ------------------------------------------------------------------------------------------- operations and defences


def test_health_metrics_and_docs(client, server):
    health = ok(client.get("/health"))
    assert health["status"] == "ok"
    assert health["indexes"]["main"]["backends"] == {"text": "torch", "image": "torch"}
    client.post("/search", json={"text": "counted"})
    metrics = client.get("/metrics").text
    for name in ('modiste_requests_total{route="/search",status="200"}', 'modiste_batch_items_count{tower="text"}',
                 'modiste_queue_items{tower="image"}', "process_resident_memory_bytes"):  # fmt: skip
        assert name in metrics
    docs = client.get("/docs").text
    assert "://" not in docs
    assert {"/search", "/v1/embeddings", "/ground"} <= set(client.get("/openapi.json").json()["paths"])


def test_the_page_s_files_are_served_with_a_strict_policy(client):
    page = client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for name in ("main.js", "style.css", "icon.svg"):
        assert client.get(f"/assets/{name}").status_code == 200
    assert client.get("/assets/../app.py").status_code == 404
    assert client.get("/assets/%2e%2e/app.py").status_code == 404


def test_what_is_too_large_or_of_unknown_length_is_refused_before_it_is_read(client):
    assert client.post("/search", content=b"x" * 2_000_000).status_code == 413
    assert client.post("/search", content=iter([b"{}"])).status_code == 411
    assert client.post("/search", json={"image": data_url(Image.new("L", (1200, 1200)))}).status_code == 413
    assert client.post("/search", content=b"{broken", headers={"content-type": "application/json"}).status_code == 422


def test_few_photos_are_held_decoded_at_once_whatever_is_asked(client, index, monkeypatch):
    """Two hundred photos of 50 megapixels, each in a request of its own, took all memory."""
    from modiste.serve import server, towers
    from modiste.serve.uploads import read_image

    decoded, most, lock = [], [0], threading.Lock()

    def counted(given, settings):
        image = read_image(given, settings)
        with lock:
            decoded.append(weakref.ref(image))
            most[0] = max(most[0], sum(one() is not None for one in decoded))
        time.sleep(0.05)
        return image

    monkeypatch.setattr(server, "read_image", counted)
    photo = data_url(index.image(0))
    bodies = {"/search": {}, "/zero-shot": {"labels": ["shirt"]}, "/ground": {"phrases": ["sleeve"]}}
    with ThreadPoolExecutor(24) as pool:
        asked = [
            pool.submit(client.post, path, json={"image": photo, **body})
            for path, body in bodies.items()
            for _ in range(8)
        ]
        assert {one.result().status_code for one in asked} == {200}
    assert 1 < most[0] <= towers.DECODED


def test_many_images_are_decoded_and_embedded_by_micro_batches(client, index, monkeypatch):
    from modiste.serve import embeddings, towers
    from modiste.serve.uploads import read_image

    events, submit = [], towers.Batcher.submit
    monkeypatch.setattr(embeddings, "read_image", lambda *given: events.append("i") or read_image(*given))
    monkeypatch.setattr(towers.Batcher, "submit", lambda self, items: events.append("|") or submit(self, items))
    photo = data_url(index.image(0))
    answer = ok(client.post("/v1/embeddings", json={"input": 70 * [photo] + ["shirt"]}))
    vectors = np.array([one["embedding"] for one in answer["data"]])
    assert vectors.shape[0] == 71
    assert np.allclose(vectors[:70], vectors[0], atol=1e-5)
    assert not np.allclose(vectors[70], vectors[0], atol=1e-2)
    assert "".join(events) == "|".join([32 * "i", 32 * "i", 6 * "i", "", ""])


def test_a_photo_of_one_line_can_be_grounded(client):
    line = data_url(Image.new("L", (60_000, 1)))
    answer = ok(client.post("/ground", json={"image": line, "phrases": ["sleeve"]}))
    assert (answer["width"], answer["height"]) == (60_000, 1)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": 20_000 * [1]}),
        ("/zero-shot", {"row": 0, "labels": 20_000 * ["a"]}),
        ("/search", {"filters": {str(n): {} for n in range(20_000)}}),
        ("/search", {"filters": {"price": {"values": 150 * [150 * ["a"]]}}}),
    ],
    ids=["inputs", "labels", "filters", "nested"],
)
def test_a_body_of_too_many_entries_is_refused_before_each_is_validated(client, path, body):
    """A megabyte of wrong entries took a minute, and gave sixty megabytes of errors."""
    response = client.post(path, json=body)
    assert response.status_code == 422
    assert response.json()["error"]["message"].endswith("the body has more than 10,000 entries: send fewer at a time")


def test_the_first_of_many_errors_are_told(client):
    response = client.post("/zero-shot", json={"row": 0, "labels": 1000 * [1]})
    message = response.json()["error"]["message"]
    assert message.startswith("labels.0: Input should be a valid string")
    assert message.endswith("; and 990 more")


@pytest.mark.parametrize("path", ["/token", "/assets/main.js"])
def test_a_body_that_needs_no_token_is_short(client, path):
    response = client.post(path, content=b"a=b&" * 10_000)
    assert response.status_code == 413


def test_a_body_with_a_long_key_is_refused(client):
    """A key of 500 KB was repeated in the error of each of its 800 values."""
    response = client.post("/search", json={"filters": {"K" * 1000: {str(n): 1 for n in range(100)}}})
    assert len(response.content) < 200
    assert "the body has a key of more than 200 characters" in response.json()["error"]["message"]


def test_a_text_is_searched_while_photos_wait_to_be_decoded(client, index, monkeypatch):
    from modiste.serve import server
    from modiste.serve.uploads import read_image

    free = threading.Event()
    monkeypatch.setattr(server, "read_image", lambda *given: free.wait(30) and read_image(*given))
    photo = data_url(index.image(0))
    with ThreadPoolExecutor(12) as pool:
        photos = [pool.submit(client.post, "/search", json={"image": photo}) for _ in range(12)]
        time.sleep(0.3)
        try:
            assert client.post("/search", json={"text": "red dress"}, timeout=10).status_code == 200
            assert not any(one.done() for one in photos)
        finally:
            free.set()
        assert {one.result().status_code for one in photos} == {200}


def test_a_body_that_is_longer_than_it_says_is_refused():
    """h11 passes a chunked body on whatever Content-Length says."""
    from modiste.serve.gate import Gate
    from modiste.serve.metrics import Metrics
    from modiste.serve.settings import Settings

    async def receive():
        return {"type": "http.request", "body": b"x" * 2**19, "more_body": True}

    async def send(message):
        sent.append(message)

    sent = []
    gate = Gate(None, Settings("i", max_upload_mb=1), Metrics())
    headers = [(b"host", b"localhost"), (b"content-length", b"5")]
    asyncio.run(gate({"type": "http", "method": "POST", "path": "/search", "headers": headers}, receive, send))
    assert sent[0]["status"] == 413
    assert (gate.in_flight, gate.held) == (0, 0)


def test_phrases_are_located_on_one_photo_at_a_time(client, monkeypatch):
    from modiste.serve import looking

    at_once, most, locate = [], [], looking.locate

    def counted(*given, **more):
        at_once.append(1)
        most.append(len(at_once))
        time.sleep(0.05)
        try:
            return locate(*given, **more)
        finally:
            at_once.pop()

    monkeypatch.setattr(looking, "locate", counted)
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(client.post, "/ground", json={"row": 0, "phrases": ["sleeve"]}) for _ in range(6)]
        assert {one.result().status_code for one in asked} == {200}
    assert most == 6 * [1]


def test_another_host_s_name_is_not_answered_without_a_token(client):
    response = client.get("/catalogue", headers={"host": "evil.example"})
    assert response.status_code == 400
    assert "hosts=[evil.example]" in response.json()["error"]["message"]


def test_a_token_guards_all_but_health(indexes):
    import httpx

    from modiste.serve.app import create_app
    from modiste.serve.settings import Settings

    app = create_app(Settings(str(indexes[0]), backend="torch", token="secret"))
    with running(app) as served, httpx.Client(base_url=served.url) as client:
        for path in ("/catalogue", "/metrics", "/docs", "/openapi.json", "/image/0"):
            assert client.get(path).status_code == 401, path
        assert client.post("/search", json={}).status_code == 401
        assert client.get("/health").status_code == 200
        for cookie in (b'a:b,c=1; modiste_token="\\xx; \x80', b"modiste_token", b"=;;\xff=secret", b"[" * 5000):
            assert client.get("/catalogue", headers=[(b"cookie", cookie)]).status_code == 401
        assert client.get("/catalogue", headers=[(b"cookie", b"a:b=1; modiste_token=secret")]).status_code == 200
        assert client.get("/catalogue", headers={"authorization": "Bearer wrong"}).status_code == 401
        assert client.get("/catalogue", headers={"authorization": "Bearer secret"}).status_code == 200
        assert "form" in client.get("/", headers={"accept": "text/html"}).text
        assert client.post("/token", content="token=wrong").status_code == 401
        entered = client.post("/token", content="token=secret")
        assert entered.status_code == 303
        assert "httponly" in entered.headers["set-cookie"].lower()
        assert client.get("/catalogue").status_code == 200  # by the cookie


def test_an_overloaded_server_says_so_and_answers_the_others(indexes):
    import httpx

    from modiste.serve.app import create_app
    from modiste.serve.settings import Settings

    app = create_app(Settings(str(indexes[0]), backend="torch", max_queue=2, max_wait_ms=50))
    with running(app) as served, httpx.Client(base_url=served.url, timeout=30) as client:
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda i: client.post("/search", json={"text": f"query {i}"}), range(36)))
        status = {answer.status_code for answer in answers}
        assert status == {200, 429}
        assert all(int(a.headers["retry-after"]) >= 1 for a in answers if a.status_code == 429)
        assert client.post("/search", json={"text": "later"}).status_code == 200


def test_bodies_that_do_not_come_are_not_in_flight_and_time_out(indexes, monkeypatch):
    import httpx

    from modiste.serve import gate
    from modiste.serve.app import create_app
    from modiste.serve.settings import Settings

    monkeypatch.setattr(gate, "BODY_SECONDS", 3.0)
    app = create_app(Settings(str(indexes[0]), backend="torch", max_queue=2))
    with running(app) as served, httpx.Client(base_url=served.url, timeout=30) as client, ExitStack() as stack:
        port = int(served.url.rpartition(":")[2])
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30)) for _ in range(8)]
        for one in slow:
            one.sendall(b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        gone = socket.create_connection(("127.0.0.1", port))
        gone.sendall(b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        gone.close()
        assert client.post("/search", json={"text": "meanwhile"}).status_code == 200
        assert client.get("/catalogue").status_code == 200
        for one in slow:
            answer = b"".join(iter(lambda one=one: one.recv(4096), b""))  # until the server closes it
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"The body did not arrive within 3 s: send it again." in answer
        assert client.post("/search", json={"text": "later"}).status_code == 200


def test_an_unforeseen_error_does_not_end_the_watch_for_new_versions(indexes, tmp_path, monkeypatch, caplog):
    import httpx

    import modiste.search
    from modiste.serve.app import create_app
    from modiste.serve.live import Live
    from modiste.serve.settings import Settings

    folder = tmp_path / "moving.index"
    shutil.copytree(indexes[0], folder)
    app = create_app(Settings(str(folder), backend="torch", poll_seconds=0.05))
    load, failed = Live._load, threading.Event()

    def fail(self, before):
        failed.set()
        raise KeyError("damaged")

    with running(app) as served, httpx.Client(base_url=served.url, timeout=30) as client:
        first = ok(client.post("/search", json={"text": "shoe"}))
        monkeypatch.setattr(Live, "_load", fail)
        modiste.search.open(folder).delete([ids(first)[0]])
        assert failed.wait(30)
        monkeypatch.setattr(Live, "_load", load)
        deadline = time.monotonic() + 30
        while ok(client.post("/search", json={"text": "shoe"}))["version"] == first["version"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert "cannot be opened, still serving the old one: 'damaged'" in caplog.text


def test_a_new_version_is_served_while_requests_run(indexes, tmp_path):
    import httpx

    import modiste.search
    from modiste.serve.app import create_app
    from modiste.serve.settings import Settings

    folder = tmp_path / "moving.index"
    shutil.copytree(indexes[0], folder)
    app = create_app(Settings(str(folder), backend="torch", poll_seconds=0.05))
    with running(app) as served, httpx.Client(base_url=served.url, timeout=30) as client:
        before = ok(client.post("/search", json={"text": "shoe"}))
        seen, done = [], threading.Event()

        def ask():
            while not done.is_set():
                seen.append(client.post("/search", json={"text": "shoe"}))

        asking = [threading.Thread(target=ask) for _ in range(3)]
        for thread in asking:
            thread.start()
        modiste.search.open(folder).delete([ids(before)[0]])
        while not seen or seen[-1].json()["version"] == before["version"]:
            assert len(seen) < 5000
            threading.Event().wait(0.02)
        done.set()
        for thread in asking:
            thread.join()
        assert {answer.status_code for answer in seen} == {200}
        assert ids(before)[0] not in ids(ok(client.post("/search", json={"text": "shoe"})))
        assert ok(client.get("/health"))["indexes"]["main"]["version"] != before["version"]


def test_shutting_down_answers_all_that_was_asked(indexes, monkeypatch):
    import httpx

    from modiste.serve.app import create_app
    from modiste.serve.settings import Settings

    app = create_app(Settings(str(indexes[0]), backend="torch"))
    server, arrived, stopping = app.state.server, threading.Semaphore(0), threading.Event()
    with server.use() as held:
        tower = held.towers._text
    answer, run = server.answer, tower.run

    async def counted(body):
        arrived.release()
        return await answer(body)

    def accepts(port):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
            return True
        return False

    monkeypatch.setattr(server, "answer", counted)
    tower.run = lambda words: run(words) if stopping.wait(30) else None
    with running(app) as served, ThreadPoolExecutor(16) as pool:
        clients = [httpx.Client(base_url=served.url, timeout=30) for _ in range(16)]
        waiting = [pool.submit(client.post, "/search", json={"text": f"{i}"}) for i, client in enumerate(clients)]
        assert all(arrived.acquire(timeout=30) for _ in clients)  # uvicorn drops a request that it has not read
        served.stop()
        while accepts(httpx.URL(served.url).port):
            time.sleep(0.01)
        stopping.set()
        assert {future.result(30).status_code for future in waiting} == {200}


def test_an_unforeseen_error_says_nothing_and_the_server_goes_on(indexes, caplog, monkeypatch):
    import httpx

    from modiste.serve.app import create_app
    from modiste.serve.settings import Settings

    app = create_app(Settings(str(indexes[0]), backend="torch"))
    monkeypatch.setattr(app.state.server, "answer", lambda body: 1 / 0)
    with running(app) as served:
        response = httpx.post(f"{served.url}/search", json={"text": "x"})
        assert response.status_code == 500
        assert "division" not in response.text
        assert httpx.get(f"{served.url}/health").status_code == 200
    assert "division by zero" in caplog.text


def test_words_of_several_requests_are_scored_in_one_pass(indexes, monkeypatch):
    from modiste.serve import towers
    from modiste.serve.app import create_app
    from modiste.serve.settings import Settings

    server = create_app(Settings(str(indexes[0]), backend="torch", max_batch=8)).state.server
    texts, batches = [f"a dress of kind {number}" for number in range(40)], []

    async def ask(held):
        return await asyncio.gather(*(held.asked([text], alone=True) for text in texts))

    with server.use() as held:
        monkeypatch.setattr(held.towers._text, "observe", lambda items, seconds: batches.append(items))
        monkeypatch.setattr(towers, "SCORES", 3 * len(held.index))  # three texts in a pass
        views = asyncio.run(ask(held))
        for text, view in zip(texts, views, strict=True):
            query = view.embedder.texts([text]).numpy()[0]
            np.testing.assert_allclose(view.snapshot.scores(query), held.index.snapshot.vectors @ query, atol=1e-5)
            some = np.array([1, 3])
            np.testing.assert_allclose(view.snapshot.scores(query, some), held.index.snapshot.vectors[some] @ query)
            alone = held.index.search(text=text, k=5).table
            assert view.search(text=text, k=5).table["row"].equals(alone["row"])
        assert held.index.snapshot.known is None
    server.close()  # the last batch is observed after it was answered
    assert sum(batches) == 2 * 40  # together, and one by one for comparison
    assert max(batches) == 8


def test_an_index_on_a_qdrant_server_is_refused(indexes):
    from types import SimpleNamespace

    from modiste.errors import ModisteError
    from modiste.serve.app import create_app
    from modiste.serve.settings import Settings

    remote = SimpleNamespace(facts={"engine": {"kind": "qdrant"}})
    with pytest.raises(ModisteError, match="engine=lancedb"):
        create_app(Settings(str(indexes[0]), backend="torch"), lambda path: remote)


def test_the_split_is_the_last_of_the_columns(client):
    """Facets stand in this order, and the first are unfolded."""
    names = [column["name"] for column in client.get("/catalogue").json()["indexes"]["main"]["columns"]]
    assert len(names) > 3
    assert names[-1] == "split"


UNBOUNDED = {"image", "file", "input", "picked", "versions"}
"""Files and lists of them, which the size of a request limits."""


def bounded(schema, names, seen=()):
    """The names of texts without a greatest length within a JSON schema."""
    if isinstance(schema, list):
        return {name for item in schema for name in bounded(item, names, seen)}
    if not isinstance(schema, dict):
        return set()
    if schema.get("type") == "string":
        limited = {"maxLength", "enum", "const", "format", "contentMediaType"} & set(schema)
        return set() if limited else {seen[-1] if seen else ""}
    if "$ref" in schema:
        return bounded(names[schema["$ref"].rpartition("/")[2]], names, seen)
    found = set()
    for key, value in schema.items():
        if key == "properties":
            found |= {name for part, inner in value.items() for name in bounded(inner, names, (*seen, part))}
        elif key not in ("propertyNames", "examples", "default"):
            found |= bounded(value, names, seen)
    return found


def test_every_text_of_a_request_has_a_greatest_length(client):
    document = client.get("/openapi.json").json()
    schemas, unbounded = document["components"]["schemas"], set()
    for path, methods in document["paths"].items():
        for route in methods.values():
            for given in route.get("parameters", []):
                unbounded |= {f"{path} {name}" for name in bounded(given["schema"], schemas, (given["name"],))}
            for body in route.get("requestBody", {}).get("content", {}).values():
                unbounded |= bounded(body["schema"], schemas) - UNBOUNDED
    assert not unbounded

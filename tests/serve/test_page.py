"""The page in headless Chromium: by mouse and keyboard, without console errors, without a request to another host."""

import base64
import csv
import io
import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from helpers.served import PRODUCTS, VIEWS

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
SLOW = 15_000  # ms, of a busy machine


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium, or set CHROMIUM to its path")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def expected_errors():
    """Parts of console messages that a test provokes."""
    return []


@pytest.fixture
def page(browser, server, expected_errors):
    """An empty page of the server's; afterwards nothing may have gone wrong in it, or to another host."""
    context = browser.new_context(
        base_url=server.url, viewport={"width": 1280, "height": 800}, permissions=["clipboard-read", "clipboard-write"]
    )
    context.set_default_timeout(SLOW)
    page = context.new_page()
    wrong, hosts = [], set()
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    yield page
    context.close()
    assert hosts - {""} <= {urlsplit(server.url).netloc}
    assert not [text for text in wrong if not any(part in text for part in expected_errors)]


@pytest.fixture(scope="module")
def titles(indexes):
    import modiste.search

    return modiste.search.open(indexes[0]).snapshot.table.column("text").to_pylist()


def shown(page):
    """Product ids of the grid, once the answer has come."""
    page.wait_for_selector("section[aria-busy=false] .card")
    return page.eval_on_selector_all(".card", "cards => cards.map((card) => card.dataset.product)")


def answered(page, action, path="/search"):
    """What the server answered to what ``action`` made the page ask."""
    with page.expect_response(lambda response: urlsplit(response.url).path == path) as waiting:
        action()
    page.wait_for_selector("section[aria-busy=false]") if path == "/search" else None
    return waiting.value.json()


def photo_bytes(server, row):
    import httpx

    return httpx.get(f"{server.url}/image/{row}", params={"large": True}).content


def test_typing_searches_and_the_address_holds_the_query(page):
    page.goto("/")
    listed = shown(page)
    answer = answered(page, lambda: page.get_by_label("Query").fill("red dress"))
    found = [product["product_id"] for product in answer["results"]]
    assert shown(page) == found != listed
    assert page.url.endswith("?q=red+dress")
    scores = page.locator(".score span").all_inner_texts()
    assert scores == [f"{product['score']:.3f}" for product in answer["results"]]
    alternatives = page.eval_on_selector_all(".card img", "images => images.map((image) => image.alt)")
    assert alternatives == [product["title"] for product in answer["results"]]
    page.reload()
    assert shown(page) == found
    assert page.get_by_label("Query").input_value() == "red dress"
    page.goto("/?text=red+dress")
    assert shown(page) == found


@pytest.mark.slow
def test_facets_filter_and_count_and_can_be_cleared(page):
    page.goto("/?q=dress")
    shown(page)
    option = page.locator(".facets details[open] label").first
    value, count = option.locator("span").all_inner_texts()
    answer = answered(page, option.click)
    assert answer["products"] == int(count) < answer["count"]
    assert page.locator(".summary strong").inner_text() == f"{len(shown(page))} of {count} products"
    assert "f." in page.url
    name = page.locator(".facets details[open] summary").first.inner_text()
    assert all(value in map(str, product["attributes"].values()) for product in answer["results"]), name
    page.reload()
    assert shown(page) == [product["product_id"] for product in answer["results"]]
    assert page.locator(".facets input:checked").count() == 1
    everything = answered(page, lambda: page.get_by_role("button", name="Clear").click())
    assert everything["count"] > answer["count"]
    page.go_back()
    page.wait_for_selector(".facets input:checked")


@pytest.mark.slow
def test_a_facet_value_may_contain_the_separator(page):
    """The address joins the values of a facet on |."""
    page.goto("/?q=dress")
    shown(page)
    column = page.locator(".facets input[data-facet]").first.get_attribute("data-facet").partition("=")[0]
    chosen = ["a|b", "50%7C", "c"]
    with page.expect_request(lambda request: urlsplit(request.url).path == "/search") as asked:
        page.goto(f"/?f.{column}=a%257Cb|50%25257C|c")
    assert asked.value.post_data_json["filters"][column]["values"] == chosen
    shown_values = page.locator(f".facets input[data-facet^='{column}=']:checked")
    shown_values.first.wait_for()
    assert sorted(box.get_attribute("data-facet") for box in shown_values.all()) == sorted(
        f"{column}={value}" for value in chosen
    )
    with page.expect_request(lambda request: urlsplit(request.url).path == "/search") as asked:
        page.locator(f".facets input[data-facet='{column}=c']").click()
    assert asked.value.post_data_json["filters"][column]["values"] == chosen[:2]


@pytest.mark.slow
def test_a_mixed_query_says_why_it_has_no_threshold(page):
    page.goto("/")
    product = shown(page)[0]
    page.goto(f"/?like={product}&q=red")
    shown(page)
    assert "since the query is mixed" in page.locator(".summary").inner_text()


@pytest.mark.slow
def test_scores_of_a_hybrid_list_are_not_held_against_the_threshold_of_cosines(page):
    page.goto("/?q=red+dress&k=40")
    shown(page)
    assert page.locator(".meter b").count() == page.locator(".card").count()
    page.goto("/?q=red+dress&k=40&hybrid=1")
    shown(page)
    assert page.locator(".meter").count() == page.locator(".card").count() > 0
    assert page.locator(".meter b, .divider").count() == 0


@pytest.mark.slow
def test_a_range_of_prices(page):
    page.goto("/?q=dress")
    shown(page)
    page.locator("summary", has_text="Price").click()
    field = page.get_by_label("price, to")
    field.fill("40")
    answer = answered(page, lambda: field.press("Enter"))
    assert answer["results"]
    assert all(product["attributes"]["price"] <= 40 for product in answer["results"])
    assert "r.price=..40" in page.url


@pytest.mark.slow
@pytest.mark.parametrize("way", ["paste", "drop", "upload"])
def test_a_photo_searches_however_it_is_given(page, server, way):
    page.goto("/")
    shown(page)
    content = base64.b64encode(photo_bytes(server, 2)).decode()
    event = """([kind, content]) => {
      const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
      const transfer = new DataTransfer();
      transfer.items.add(new File([bytes], "photo.jpg", { type: "image/jpeg" }));
      dispatchEvent(kind === "paste" ? new ClipboardEvent("paste", { clipboardData: transfer })
                                     : new DragEvent("drop", { dataTransfer: transfer }));
    }"""
    if way == "upload":
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Search with a photo").click()
        file = {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": base64.b64decode(content)}
        answer = answered(page, lambda: chooser.value.set_files(file))
    else:
        answer = answered(page, lambda: page.evaluate(event, [way, content]))
    assert answer["results"][0]["row"] // VIEWS == 2 // VIEWS  # the product of the photo
    assert answer["results"][0]["score"] > 0.8
    assert page.get_by_alt_text("Your photo").is_visible()
    assert "image=" in page.url
    page.reload()
    assert shown(page)[0] == answer["results"][0]["product_id"]


def test_what_is_no_photo_is_told(page):
    page.goto("/")
    shown(page)
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Search with a photo").click()
    chooser.value.set_files({"name": "a.jpg", "mimeType": "image/jpeg", "buffer": b"no photo"})
    page.get_by_text("not an image that the browser can read").wait_for()


@pytest.mark.slow
def test_more_like_this_and_like_this_but(page):
    page.goto("/?q=dress")
    first = shown(page)[0]
    card = page.locator(".card").first
    card.hover()
    answer = answered(page, lambda: card.get_by_role("button", name="More like this").click())
    assert first not in shown(page)
    assert f"like={first}" in page.url
    mixed = answered(page, lambda: page.get_by_label("Query").fill("red"))
    assert [product["product_id"] for product in mixed["results"]] != [p["product_id"] for p in answer["results"]]
    without = answered(page, lambda: page.get_by_label("Without").fill("blue"))
    assert without["results"] != mixed["results"]
    assert {"like", "q", "minus"} <= set(page.evaluate("[...new URLSearchParams(location.search).keys()]"))
    answered(page, lambda: page.get_by_role("button", name="Remove Like").click())
    assert "like=" not in page.url


@pytest.mark.slow
def test_the_keyboard_is_enough(page):
    page.goto("/?q=shoe")
    found = shown(page)
    page.keyboard.press("Escape")  # out of the query, if it had the focus
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    focused = "document.activeElement.closest('.card').dataset.product"
    assert page.evaluate(focused) == found[1]
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) not in found[:2]
    page.keyboard.press("ArrowUp")
    assert page.evaluate(focused) == found[1]
    page.keyboard.press("Enter")
    page.get_by_role("dialog").get_by_role("heading").wait_for()
    page.keyboard.press("Escape")
    assert page.get_by_role("dialog").count() == 0
    answered(page, lambda: page.keyboard.press("m"))
    assert f"like={found[1]}" in page.url
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.type") == "search"
    page.keyboard.press("Escape")
    page.keyboard.press("3")
    page.get_by_role("heading", name="Ground").wait_for()
    page.keyboard.press("?")
    page.get_by_role("dialog", name="Keyboard").wait_for()


def test_classify_a_photo_while_labels_are_edited(page):
    page.goto("/?tab=classify&row=0")
    page.wait_for_selector(".bars > div")
    answer = answered(page, lambda: page.get_by_label("Labels").fill("zebra\nshirt\nlamp"), "/zero-shot")
    page.wait_for_function("document.querySelectorAll('.bars > div').length === 3")
    assert page.locator(".bars > div > span:first-child").all_inner_texts() == [e["label"] for e in answer["labels"]]
    assert "labels=" in page.url


@pytest.mark.slow
def test_classify_an_attribute_and_look_into_a_cell(page):
    page.goto("/?tab=classify")
    answer = answered(page, lambda: page.get_by_role("button", name="An attribute").click(), "/zero-shot/attribute")
    page.wait_for_selector(".matrix")
    assert "split" not in page.get_by_label("Attribute").locator("option").evaluate_all(
        "all => all.map((o) => o.value)"
    )
    assert page.locator(".matrix tbody tr").count() == len(answer["classes"])
    page.locator(".matrix button:not(:disabled)").first.click()
    page.wait_for_selector(".columns .grid.small .card")
    word = page.get_by_label(f"Word for {answer['classes'][0]}")
    changed = answered(page, lambda: word.fill("zebra"), "/zero-shot/attribute")
    assert changed["n"] == answer["n"]
    assert word.input_value() == "zebra"  # the answer did not take the field away


@pytest.mark.slow
def test_ground_draws_a_map_for_each_phrase(page):
    page.goto("/?q=shirt")
    shown(page)
    page.locator(".card .photo").first.click()
    answered(page, lambda: page.get_by_role("dialog").get_by_role("button", name="Ground").click(), "/ground")
    answered(page, lambda: page.get_by_label("Phrases").fill("sleeve\ncollar"), "/ground")
    page.wait_for_function("document.querySelectorAll('.heat canvas').length === 2")
    assert page.locator(".heat figcaption span:first-child").all_inner_texts() == ["sleeve", "collar"]
    drawn = page.evaluate("""[...document.querySelectorAll('.heat canvas')].map((canvas) =>
      new Set(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data).size)""")
    assert min(drawn) > 20  # many colours
    inside = page.evaluate("""[...document.querySelectorAll('.heat .box')].map((box) => {
      const [one, all] = [box.getBoundingClientRect(), box.parentElement.getBoundingClientRect()];
      return one.width > 4 && one.height > 4 && one.left >= all.left && one.right <= all.right
        && one.top >= all.top && one.bottom <= all.bottom && one.width * one.height < all.width * all.height; })""")
    assert inside == [True, True]
    assert "most similar at the" in page.locator(".heat canvas").first.get_attribute("aria-label")


@pytest.mark.slow
def test_compare_side_by_side_and_blind(page):
    page.goto("/?tab=compare&q=dress")
    page.wait_for_selector(".pair .card")
    assert page.locator(".pair section").count() == 2
    page.get_by_role("button", name="A query file").click()
    page.get_by_label("Queries").fill("red dress\nblue shirt")
    answered(page, lambda: page.get_by_role("button", name="Start judging").click(), "/compare/queries")
    page.locator(".card .photo").nth(1).click()
    assert page.locator(".card.picked").count() == 1
    page.get_by_role("button", name="Next").click()
    page.get_by_role("heading", name="blue shirt").wait_for()
    page.keyboard.press("1")  # another view does not lose what was judged
    shown(page)
    page.go_back()
    page.get_by_role("heading", name="blue shirt").wait_for()
    answer = answered(page, lambda: page.get_by_role("button", name="Finish").click(), "/compare/judge")
    assert sum(answer["wins"].values()) == 2
    page.get_by_text("exact sign test").wait_for()
    with page.expect_download() as download:
        page.get_by_role("link", name="Export CSV").click()
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    assert sum(row["marked"] == "1" for row in rows) == 1


@pytest.mark.slow
def test_catalogue_health_lists_and_exports(page):
    page.goto("/?tab=health")
    page.wait_for_selector(".summary strong")
    count = int(page.locator(".summary strong").inner_text())
    with page.expect_download() as download:
        page.get_by_role("link", name="Export CSV").click()
    rows = list(csv.reader(io.StringIO(Path(download.value.path()).read_text())))
    assert len(rows) - 1 == count
    for button in page.locator(".lists button").all()[1:]:
        name = button.locator("span").first.inner_text()
        button.click()
        page.wait_for_function(
            "name => document.querySelector('.lists [aria-pressed=true]')?.innerText.includes(name)"
            " && document.querySelector('.summary strong, .notice.bad')", arg=name,
        )  # fmt: skip
        assert page.locator(".notice.bad").count() == 0, page.locator(".notice.bad").inner_text()


def test_errors_are_sentences_and_have_a_way_out(page, expected_errors):
    expected_errors.append("422")
    page.goto("/?q=dress&where=nope+%3D+1")
    page.get_by_role("alert").wait_for()
    assert "no column 'nope'" in page.get_by_role("alert").inner_text()
    page.get_by_role("button", name="Remove the filters").click()
    shown(page)
    assert "where" not in page.url


def test_a_server_that_is_gone_is_told(page, expected_errors):
    expected_errors.append("ERR_FAILED")
    page.goto("/")
    shown(page)
    page.route("**/search", lambda route: route.abort())
    page.get_by_label("Query").fill("dress")
    page.get_by_text("The server does not answer").wait_for()


def test_a_photo_of_another_browser_is_asked_for_again(page):
    page.goto("/?image=unknown")
    page.get_by_text("paste or choose it again").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_s_width_holds_everything_without_scrolling_sideways(page, scheme):
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme=scheme)
    for query in ("?q=dress", "?tab=classify&row=0", "?tab=ground&row=0", "?tab=compare&q=dress", "?tab=health"):
        page.goto(f"/{query}")
        page.wait_for_selector(".card, .bars, .heat, .summary strong")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, query
    page.goto("/?q=dress")
    shown(page)
    page.get_by_role("button", name="Filters").click()
    assert page.locator(".facets.open").is_visible()
    page.get_by_role("button", name="Done").click()
    assert not page.locator(".facets").is_visible()
    lightness = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
    assert (lightness > 128) == (scheme == "light")


def test_a_chosen_theme_stays(page):
    page.goto("/")
    shown(page)
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Light or dark").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before


VIEWS_WITH_PRODUCTS = {
    "?tab=health&list=misfits": [".thumb-button"],
    "?tab=classify&of=attribute": [".matrix button:not(:disabled)", ".grid.small .photo"],
    "?tab=compare&q=bag": [".pair section:first-child .photo"],
}


@pytest.mark.slow
@pytest.mark.parametrize("link", ["More like this", "Classify", "Ground", "Search"])
@pytest.mark.parametrize("view", VIEWS_WITH_PRODUCTS)
def test_a_product_s_links_work_in_a_view_that_was_opened_by_its_address(page, view, link):
    page.goto(f"/{view}")
    for selector in VIEWS_WITH_PRODUCTS[view]:
        page.locator(selector).first.click()
    page.get_by_role("dialog").get_by_role("button", name=link, exact=True).click()
    page.wait_for_selector(".bars > div" if link == "Classify" else ".heat canvas" if link == "Ground" else ".card")
    assert {"Classify": "?tab=classify&row=", "Ground": "?tab=ground&row="}.get(link, "?like=") in page.url


@pytest.mark.slow
def test_a_photo_searches_although_the_session_s_storage_is_full(page, server):
    page.add_init_script("Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); }")
    page.goto("/")
    shown(page)
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Search with a photo").click()
    file = {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": photo_bytes(server, 2)}
    answer = answered(page, lambda: chooser.value.set_files(file))
    assert answer["results"][0]["row"] // VIEWS == 2 // VIEWS
    assert page.get_by_alt_text("Your photo").is_visible()


@pytest.mark.slow
@pytest.mark.parametrize("link", ["More like this", "Classify", "Ground", "Search"])
def test_the_second_index_s_products_are_asked_of_that_index(page, link):
    path = {"Classify": "/zero-shot", "Ground": "/ground"}.get(link, "/search")
    page.goto("/?tab=compare&q=bag")
    page.locator(".pair section:last-child .photo").first.click()
    with page.expect_request(lambda request: urlsplit(request.url).path == path) as asked:
        page.get_by_role("dialog").get_by_role("button", name=link, exact=True).click()
    assert asked.value.post_data_json["index"] == "compare"
    assert "index=compare" in page.url
    page.wait_for_selector(".bars > div, .heat canvas, section[aria-busy=false] .card")
    assert page.locator("img").evaluate_all("all => all.every((image) => image.src.includes('index=compare'))")
    if path == "/search":
        page.get_by_role("button", name="Remove Index other").click()
        shown(page)
        assert "index=" not in page.url
    else:
        page.get_by_text("Model of index other: tiny 1").wait_for()


@pytest.mark.slow
def test_no_more_results_are_asked_for_than_the_server_gives(page):
    page.goto("/?k=1001")
    assert len(shown(page)) == PRODUCTS
    page.goto("/?tab=health&list=misfits&limit=1001")
    page.wait_for_selector(".summary strong")

    def limited(route):
        route.fulfill(json=route.fetch().json() | {"limits": {"max_results": 10}})

    page.route("**/catalogue", limited)
    page.goto("/?k=5")
    shown(page)
    answer = answered(page, lambda: page.get_by_role("button", name="Show more").click())
    assert len(answer["results"]) == len(shown(page)) == 10
    page.get_by_text("at most 10 results").wait_for()
    assert page.get_by_role("button", name="Show more").count() == 0


@pytest.mark.slow
def test_any_value_of_a_facet_can_be_found_and_chosen(page):
    """As of a catalogue with many brands."""
    brands = [{"value": f"Brand {number}", "count": 200 - number} for number in range(143)]

    def with_brands(route):
        answer = route.fetch().json()
        route.fulfill(json=answer | {"facets": {column: brands}})

    page.goto("/?q=dress")
    shown(page)
    column = page.locator(".facets input[data-facet]").first.get_attribute("data-facet").partition("=")[0]
    page.route("**/search", with_brands)
    page.reload()
    box = page.locator(".facets details").first.get_by_role("searchbox")
    box.press_sequentially("and 140")
    assert page.locator(".facets label").all_inner_texts() == ["Brand 140\n60"]
    with page.expect_request(lambda request: urlsplit(request.url).path == "/search") as asked:
        page.get_by_label("Brand 140").check()
    assert asked.value.post_data_json["filters"] == {column: {"values": ["Brand 140"]}}
    page.wait_for_selector("section[aria-busy=false]")
    assert box.input_value() == "and 140"  # the answer did not take the text away
    box.fill("nothing")
    page.get_by_text("No such value").wait_for()
    assert page.locator(".facets input:checked").count() == 1  # chosen values stay
    box.fill("")
    page.get_by_role("button", name="134 more").click()
    assert page.locator(".facets label").count() == 143

"""Results for people."""

import io

import pytest

from helpers.tiny_index import columns, make_index
from modiste.errors import ModisteError
from modiste.search.gallery import print_results, write_gallery


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    titles = ["a <b>bold</b> [red]shirt[/red]", *(f"title {n}" for n in range(9))]
    return make_index(tmp_path_factory.mktemp("gallery") / "shop.index", columns(10, views=1, titles=titles))


def test_a_table_shows_titles_as_they_are_and_the_columns_asked_for(index):
    out = io.StringIO()
    print_results(index.search(text="a", k=10), ["price", "colour"], out)
    text = out.getvalue()
    assert "a <b>bold</b> [red]shirt[/red]" in text
    assert "colour" in text
    assert "brand" not in text
    assert "exact over 10 rows" in text
    assert text.splitlines()[-1].startswith("No match threshold was calibrated")
    with pytest.raises(ModisteError, match="Did you mean 'colour'"):
        print_results(index.search(text="a"), ["color"], out)


def test_a_gallery_holds_its_pictures_and_escapes_what_it_shows(index, tmp_path):
    file = tmp_path / "out.html"
    write_gallery(file, index, index.search(text="a", k=10), {"text": "<script>", "minus": None})
    page = file.read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 10
    assert "<b>bold" not in page.replace("<b>a &lt;", "")
    assert "&lt;script&gt;" in page
    assert "://" not in page
    assert "Content-Security-Policy" in page

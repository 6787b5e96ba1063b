"""The report stands alone, escapes what it is given, and shows its pictures."""

import base64
import html
import io
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from PIL import Image, PngImagePlugin

from topgap_nb.workbook.report import Code, escaped, write_report

EVIL = '<img src=x onerror="alert(1)"> & "quotes" *a* $b$ ![c](//d) `e` [f](javascript:g)'
VOID = {"meta", "img", "br", "link"}


class Reader(HTMLParser):
    """Collects tags, attributes and text, and checks that every tag is closed."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag in VOID or self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def page(tmp_path):
    description = PngImagePlugin.PngInfo()
    description.add_text("Description", f"Two maps of {EVIL}")
    picture = Image.new("RGBA", (400, 200), "white")
    picture.save(tmp_path / "maps.png", pnginfo=description, dpi=(200, 200))
    sections = {
        f"About {EVIL}": [f"Prose {EVIL}", [f"point {EVIL}", "1. second"], Code("a < b\nc")],
        "Numbers": [pd.DataFrame({"class_name": [EVIL], "n": ["3"]}), tmp_path / "maps.png"],
    }
    path = write_report(tmp_path / "out" / "report.html", f"Report of {EVIL}", sections, foot=EVIL)
    return path.read_text()


def test_names_are_text_and_never_markup(page):
    reader = Reader(page)
    assert [attrs for _, attrs in reader.tags if "onerror" in attrs] == []
    assert {"em", "code", "a"}.isdisjoint(tag for tag, _ in reader.tags)
    # Title twice, heading, prose, point, cell, caption, foot.
    assert "".join(reader.words).count(EVIL) == 8
    assert page.count("<img") == 1


@pytest.mark.parametrize("name", ["橡树", "50 $ & $x$", "<script>", "1. a", "# b", "é*_`|"])
def test_any_class_name_stands_in_prose_and_tables(tmp_path, name):
    sections = {name: [name, [name], pd.DataFrame({"class": [name]})]}
    page = write_report(tmp_path / "report.html", name, sections, foot=name).read_text()
    assert [word for word in Reader(page).words if word.strip() == name].count(name) == 7
    assert html.unescape(escaped(name)) == name


def test_the_page_loads_nothing(page):
    reader = Reader(page)
    assert {"script", "link", "iframe", "object"}.isdisjoint(tag for tag, _ in reader.tags)
    for _, attrs in reader.tags:
        for value in (attrs.get("src"), attrs.get("href")):
            assert value is None or value.startswith("data:")
    assert not re.search(r"url\(|@import|https?://", page)


def test_the_picture_is_inside_and_described(page):
    (picture,) = [attrs for tag, attrs in Reader(page).tags if tag == "img"]
    assert picture["alt"] == f"Two maps of {EVIL}"
    content = base64.b64decode(picture["src"].partition("base64,")[2])
    with Image.open(io.BytesIO(content)) as image:
        assert (image.format, image.size) == ("JPEG", (400, 200))
    # 2 inches, at the 96 pixels per inch of a browser.
    assert int(picture["width"]) == 2 * 96


def test_tables_and_lists_keep_their_cells(page):
    tags = [tag for tag, _ in Reader(page).tags]
    assert [tags.count(tag) for tag in ("th", "td", "li", "h1", "h2")] == [2, 2, 2, 1, 2]
    assert "class name" in page
    assert "a &lt; b\nc" in page

"""The HTML page stands alone, escapes what it is given, and shows its pictures."""

import base64
import io
import re
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from PIL import Image

from topgap_nb import Code, write_report
from topgap_nb.workbook.figures import save_figure

EVIL = '<img src=x onerror="alert(1)"> & "quotes"'
VOID = {"meta", "img", "br", "link"}


class Reader(HTMLParser):
    """Collects tags, attributes and text, and checks that every tag is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.found, self.words = [], [], []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def page(tmp_path):
    fig, axis = plt.subplots(figsize=(2, 1))
    axis.imshow([[0, 1]])
    save_figure(fig, tmp_path / "maps", alt=f"Two maps of {EVIL}")
    plt.close(fig)
    parts = {
        f"About {EVIL}": [f"Prose {EVIL}", [f"point {EVIL}", "second"], Code("a < b\nc")],
        "Numbers": [pd.DataFrame({"class_name": [EVIL], "n": ["3"]}), tmp_path / "maps.png"],
    }
    path = write_report(tmp_path / "out" / "report.html", f"Report of {EVIL}", parts, foot=EVIL)
    return path.read_text()


def read(page):
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def test_names_are_text_and_never_markup(page):
    reader = read(page)
    assert [attrs for tag, attrs in reader.found if "onerror" in attrs] == []
    # Title twice, heading, prose, point, cell, caption, foot.
    assert "".join(reader.words).count(EVIL) == 8
    assert page.count("<img") == 1


def test_the_page_loads_nothing(page):
    reader = read(page)
    assert {"script", "link", "iframe", "object"}.isdisjoint(tag for tag, _ in reader.found)
    for _, attrs in reader.found:
        for value in (attrs.get("src"), attrs.get("href")):
            assert value is None or value.startswith("data:")
    assert not re.search(r"url\(|@import|https?://", page)


def test_the_picture_is_inside_and_described(page):
    (picture,) = [attrs for tag, attrs in read(page).found if tag == "img"]
    assert picture["alt"] == f"Two maps of {EVIL}"
    content = base64.b64decode(picture["src"].partition("base64,")[2])
    with Image.open(io.BytesIO(content)) as image:
        assert image.width == pytest.approx(2 * image.height, rel=0.15)
    # 2 inches, at the 96 pixels per inch of a browser.
    assert int(picture["width"]) == pytest.approx(2 * 96, rel=0.15)


def test_tables_and_lists_keep_their_cells(page):
    tags = [tag for tag, _ in read(page).found]
    assert (tags.count("th"), tags.count("td"), tags.count("li")) == (2, 2, 2)
    assert "class name" in page
    assert "<pre>a &lt; b\nc</pre>" in page

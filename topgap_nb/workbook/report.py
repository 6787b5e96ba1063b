"""A self-contained HTML page: prose, tables and pictures in one file, to send to a colleague."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import pandas as pd
from PIL import Image

from topgap_nb.files import write_atomic

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin-bottom: 0.3rem; }
h2 { font-size: 1.15rem; margin: 1.6rem 0 0.4rem; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; margin: 0.6rem 0; font-size: 0.9rem; }
th, td { padding: 0.2rem 0.7rem; text-align: left; border-bottom: 1px solid #ddd; }
th { border-bottom: 1.5px solid #444; }
figure { margin: 0.6rem 0; }
img { max-width: 100%; height: auto; }
figcaption { font-size: 0.85rem; color: #555; }
pre { background: #f4f4f4; padding: 0.6rem; overflow-x: auto; white-space: pre-wrap; }
@page { size: A4; margin: 14mm; }
@media print {
  body { font-size: 10.5px; margin: 0; max-width: none; padding: 0; }
  h2 { break-after: avoid; margin-top: 0.9rem; }
  figure, table, pre { break-inside: avoid; }
  img { max-height: 90mm; }
}
"""

HOW_TO_READ = (
    "Two networks were trained on the same images. The standard one averages its evidence over the "
    "whole image; Top-GAP counts only the k strongest positions of each class's map, so k says how "
    "large the objects are. Numbers in brackets are 95 % intervals: where two overlap widely, the "
    "images do not tell the networks apart."
)

Part = str | list | pd.DataFrame | Path


class Code(str):
    """Text that is shown as it is, line by line."""


def write_report(
    path: Path, title: str, parts: Mapping[str, Sequence[Part]], foot: str = ""
) -> Path:
    """Write the page and return its path. It loads nothing and runs no script.

    Args:
        path: of the HTML file.
        title: of the page.
        parts: {heading: what stands below it}. A string is a paragraph, ``Code`` is shown as it is,
            a list is a list, a data frame a table (of words: see ``readable``), a path the picture
            in that PNG file, whose description, which ``save_figure`` put there, is its caption.
        foot: how the numbers were made.
    """
    body = [f"<h1>{escape(title)}</h1>"]
    for heading, items in parts.items():
        body += [f"<h2>{escape(heading)}</h2>", *map(_html, items)]
    if foot:
        body.append(f"<p><small>{escape(foot)}</small></p>")
    page = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )
    write_atomic(path, page)
    return path


def _html(item: Part) -> str:
    if isinstance(item, Code):
        return f"<pre>{escape(item)}</pre>"
    if isinstance(item, str):
        return f"<p>{escape(item)}</p>"
    if isinstance(item, list):
        return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in item) + "</ul>"
    if isinstance(item, pd.DataFrame):
        head = [str(name).replace("_", " ") for name in item]
        return item.set_axis(head, axis=1).to_html(index=False, border=0, escape=True)
    # Photographs make large PNG files, too large to send.
    buffer = io.BytesIO()
    with Image.open(item) as picture:
        words = escape(picture.text.get("Description", item.stem), quote=True)
        width = round(picture.width / picture.info.get("dpi", (96, 96))[0] * 96)
        picture.convert("RGB").save(buffer, "JPEG", quality=85)
    content = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure><img width="{width}" src="data:image/jpeg;base64,{content}" alt="{words}">'
        f"<figcaption>{words}</figcaption></figure>"
    )

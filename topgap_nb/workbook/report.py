"""Notebook 10's report: prose, tables and pictures in one HTML file, to send to a colleague."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from topgap_nb.store.store import write_atomic

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; }
table { border-collapse: collapse; font-size: 0.9rem; }
th, td { padding: 0.2rem 0.7rem; text-align: left; border-bottom: 1px solid #ddd; }
img { max-width: 100%; height: auto; }
pre { background: #f4f4f4; padding: 0.6rem; white-space: pre-wrap; }
small { color: #555; }
@page { size: A4; margin: 14mm; }
@media print {
  body { font-size: 10.5px; margin: 0; max-width: none; }
  h2 { break-after: avoid; }
  img, table, pre { break-inside: avoid; }
  img { max-height: 90mm; }
}
"""


class Code(str):
    """Text that is shown as it is, line by line."""


Part = str | list | pd.DataFrame | Path


def write_report(
    path: Path, title: str, sections: Mapping[str, Sequence[Part]], foot: str = ""
) -> Path:
    """Write the page and return its path. It loads nothing and runs no script.

    Args:
        path: of the HTML file.
        title: of the page.
        sections: {heading: what stands below it}. A string is a paragraph, ``Code`` is shown as it
            is, a list is a list, a data frame a table (of words: see ``readable``), a path the
            picture in that PNG file with its description as caption.
        foot: how the numbers were made.
    """
    cells = [new_markdown_cell(f"# {escaped(title)}")]
    for heading, parts in sections.items():
        outputs = [output for part in parts for output in _outputs(part)]
        cells += [new_markdown_cell(f"## {escaped(heading)}"), new_code_cell(outputs=outputs)]
    cells.append(new_markdown_cell(f"<small>{escaped(foot)}</small>"))
    for index, cell in enumerate(cells):
        # By default random: the same report would be another file each time.
        cell.id = f"part-{index}"
    export = HTMLExporter(template_name="basic", exclude_input=True, exclude_anchor_links=True)
    export.exclude_input_prompt = export.exclude_output_prompt = True
    body, _ = export.from_notebook_node(new_notebook(cells=cells))
    head = f'<meta charset="utf-8"><title>{escaped(title)}</title><style>{STYLE}</style>'
    page = f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'
    write_atomic(path, page)
    return path


def escaped(text: str) -> str:
    """Return text that neither HTML nor Markdown takes for markup.

    Args:
        text: such as a class name, to stand in prose as it is.
    """
    return re.sub(r"[!-/:-@\[-`{-~]", lambda found: f"&#{ord(found[0])};", text)


def _outputs(part: Part) -> list:
    """Return a part as outputs of a notebook's cell."""
    if isinstance(part, Code):
        data = {"text/plain": part}
    elif isinstance(part, str):
        data = {"text/markdown": escaped(part)}
    elif isinstance(part, list):
        data = {"text/markdown": "\n".join(f"- {escaped(item)}" for item in part)}
    elif isinstance(part, pd.DataFrame):
        table = part.rename(columns=lambda name: str(name).replace("_", " "))
        data = {"text/html": table.to_html(index=False, border=0)}
    else:
        return _picture(part)
    return [new_output("display_data", data)]


def _picture(path: Path) -> list:
    """Return a picture and its caption. JPEG: photographs make PNG files too large to send."""
    buffer = io.BytesIO()
    with Image.open(path) as picture:
        caption = picture.text.get("Description", path.stem)
        width = round(picture.width / picture.info.get("dpi", (96, 96))[0] * 96)
        picture.convert("RGB").save(buffer, "JPEG", quality=85)
    data = {"image/jpeg": base64.b64encode(buffer.getvalue()).decode()}
    about = {"image/jpeg": {"alt": caption, "width": width}}
    return [new_output("display_data", data, metadata=about), *_outputs(caption)]

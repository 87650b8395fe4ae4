"""The HTML page of all results: tables, figures, captions, settings and commands in one file that fetches nothing."""

import base64
import io
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from hsfm.report import contents
from hsfm.report.names import method_label
from hsfm.report.summary import Provenance, in_words, summarize


def write_page(
    tables: Mapping[str, str],
    figures: Mapping[str, bytes],
    captions: Mapping[tuple[str, str], str],
    main: pd.DataFrame,
    provenance: Provenance,
    *,
    settings: str,
    settings_file: str,
    command: str,
) -> str:
    """The page as HTML text.

    tables: fragments of `TextTable.html` by file, `.../{name}.html`. figures: PNG by file, `.../{dataset}/{name}.png`.
    captions: plain reST by kind (tables, figures) and name. main: as `summary.best_method` takes it. settings: the YAML
    text of settings_file, empty where there is none. command: makes all results with these settings, and with files
    after it only those.
    """
    environment = Environment(
        loader=PackageLoader("hsfm.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    datasets = in_words(list(main["dataset"].unique()))
    parts = [_table_part(file, table, captions) for file, table in _in_order(tables, "tables")]
    names = list(dict.fromkeys(PurePath(file).parent.name for file in figures))
    for name in names:
        own = {file: picture for file, picture in figures.items() if PurePath(file).parent.name == name}
        parts += [_figure_part(file, png, captions, name, len(names) > 1) for file, png in _in_order(own, "figures")]
    sections = {topic: [p for p in parts if p["topic"] == topic] for topic in (*contents.TOPICS, contents.OTHERS)}
    return environment.get_template("report.html.jinja").render(
        title=f"Worst-group robustness on {datasets}",
        lead=f"{in_words(list(map(method_label, main['method'].unique())))} compared on {datasets}, on the test images "
        "of every group.",
        summary=summarize(main, provenance),
        sections=[
            {"title": topic, "anchor": topic.lower().replace(" ", "-"), "parts": own}
            for topic, own in sections.items()
            if own or (topic == "Settings" and settings)
        ],
        settings=settings,
        settings_file=settings_file,
        settings_link=_data_uri(settings.encode(), "text/yaml;charset=utf-8"),
        command=f"git checkout {provenance.commit}\n{command}" if provenance.commit else command,
        provenance=provenance,
    )


def _in_order(files: Mapping[str, Any], kind: str) -> list[tuple[str, Any]]:
    return sorted(files.items(), key=lambda item: contents.position(kind, PurePath(item[0]).stem))


def _part(kind: str, file: str, captions: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    name = PurePath(file).stem
    title, caption = contents.title(kind, name), caption_html(captions[kind, name])
    return {"topic": contents.topic(kind, name), "title": title, "caption": caption}


def _table_part(file: str, table: str, captions: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    anchor = f"about-{PurePath(file).stem}".replace("_", "-")
    return {**_part("tables", file, captions), "anchor": anchor, "file": file, "table": Markup(table)}


def _figure_part(
    file: str, png: bytes, captions: Mapping[tuple[str, str], str], dataset: str, several: bool
) -> dict[str, Any]:
    """several: whether figures of other datasets have the same title."""
    part = _part("figures", file, captions)
    first = re.split(r"(?<=[.])\s", part["caption"].striptags())[0]
    width, height = Image.open(io.BytesIO(png)).size
    return {
        **part,
        "title": f"{part['title']}: {dataset}" if several else part["title"],
        "anchor": f"figure-{dataset}-{PurePath(file).stem}".replace("_", "-"),
        "alt": f"{part['title']}, {dataset}. {first}",
        "table": None,
        "figure": _data_uri(png, "image/png"),
        "width": round(width * 0.6),  # drawn at 160 pixels an inch, and a page has 96
        "height": round(height * 0.6),
    }


def caption_html(text: str) -> Markup:
    """Paragraphs of plain reST, with ``literals``."""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip())]
    code = [re.sub(r"``(.+?)``", r"<code>\1</code>", str(escape(part))) for part in paragraphs if part]
    return Markup("\n".join(f"<p>{part}</p>" for part in code))


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"

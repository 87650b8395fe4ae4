"""The HTML page of all results: tables, figures, captions, settings and commands in one file that fetches nothing."""

import base64
import io
import itertools
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
    checkout: bool = True,
) -> str:
    """The page as HTML text.

    tables: fragments of `TextTable.html` by file, `.../{name}.html`. figures: PNG by file, `.../{dataset}/{name}.png`.
    captions: plain reST by kind (tables, figures) and name. main: as `summary.best_method` takes it. settings: the YAML
    text of settings_file. command: makes all results with these settings. checkout: whether it is run in
    a checkout of the repository, and makes with files after it only those.
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
    parts = [_part(file, content, captions) for file, content in {**tables, **figures}.items()]
    parts.sort(key=lambda part: part["position"])
    return environment.get_template("report.html.jinja").render(
        title=f"Worst-group robustness on {datasets}",
        lead=f"{in_words(list(map(method_label, main['method'].unique())))} compared on {datasets}, on the test images "
        "of every group.",
        summary=summarize(main, provenance),
        sections=[
            {"title": topic, "anchor": topic.lower().replace(" ", "-"), "parts": list(own)}
            for topic, own in itertools.groupby(parts, key=lambda part: part["topic"])
        ],
        settings=settings,
        settings_file=settings_file,
        settings_link=_data_uri(settings.encode(), "text/yaml;charset=utf-8"),
        command=f"git checkout {provenance.commit}\n{command}" if provenance.commit else command,
        provenance=provenance,
        checkout=checkout,
    )


def _part(file: str, content: str | bytes, captions: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    """A table (HTML) or a figure (PNG) with its title, its caption and its place."""
    name, dataset = PurePath(file).stem, PurePath(file).parent.name
    kind = "tables" if isinstance(content, str) else "figures"
    (position, topic, title), caption = contents.place(kind, name), caption_html(captions[kind, name])
    part = {"position": position, "topic": topic, "caption": caption}
    if kind == "tables":
        anchor = f"about-{name}".replace("_", "-")
        return {**part, "title": title, "anchor": anchor, "file": file, "table": Markup(content)}
    first = re.split(r"(?<=[.])\s", caption.striptags())[0]
    width, height = Image.open(io.BytesIO(content)).size
    return {
        **part,
        "title": f"{title}: {dataset}",
        "anchor": f"figure-{dataset}-{name}".replace("_", "-"),
        "alt": f"{title}, {dataset}. {first}",
        "table": None,
        "figure": _data_uri(content, "image/png"),
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

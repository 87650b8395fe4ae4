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
    datasets = in_words(list(dict.fromkeys(main["dataset"])))
    methods = in_words([method_label(m) for m in dict.fromkeys(main["method"])])
    parts = _table_parts(tables, captions) + _figure_parts(figures, captions)
    sections = [(topic, [p for p in parts if p["topic"] == topic]) for topic in (*contents.TOPICS, contents.OTHERS)]
    return environment.get_template("report.html.jinja").render(
        title=f"Worst-group robustness on {datasets}",
        lead=f"{methods} compared on {datasets}, on the test images of every group.",
        summary=summarize(main, provenance),
        sections=[
            {"title": topic, "anchor": topic.lower().replace(" ", "-"), "parts": own}
            for topic, own in sections
            if own or (topic == "Settings" and settings)
        ],
        settings=settings,
        settings_file=settings_file,
        settings_link=_data_uri(settings.encode(), "text/yaml;charset=utf-8"),
        command=f"git checkout {provenance.commit}\n{command}" if provenance.commit else command,
        provenance=provenance,
    )


def _table_parts(tables: Mapping[str, str], captions: Mapping[tuple[str, str], str]) -> list[dict[str, Any]]:
    files = sorted(tables, key=lambda file: contents.position("tables", PurePath(file).stem))
    return [
        {
            "topic": contents.topic("tables", name),
            "title": contents.title("tables", name),
            "anchor": f"about-{name.replace('_', '-')}",
            "caption": caption_html(captions["tables", name]),
            "file": file,
            "table": Markup(tables[file]),
        }
        for file in files
        for name in [PurePath(file).stem]
    ]


def _figure_parts(figures: Mapping[str, bytes], captions: Mapping[tuple[str, str], str]) -> list[dict[str, Any]]:
    """Figures dataset by dataset."""
    datasets = list(dict.fromkeys(PurePath(file).parent.name for file in figures))
    parts = []
    for dataset in datasets:
        own = [file for file in figures if PurePath(file).parent.name == dataset]
        for file in sorted(own, key=lambda file: contents.position("figures", PurePath(file).stem)):
            name = PurePath(file).stem
            title, caption = contents.title("figures", name), captions["figures", name]
            first = re.split(r"(?<=[.])\s", " ".join(caption.split()).replace("``", ""))[0]
            width, height = Image.open(io.BytesIO(figures[file])).size
            parts.append(
                {
                    "topic": contents.topic("figures", name),
                    "title": f"{title}: {dataset}" if len(datasets) > 1 else title,
                    "anchor": f"figure-{dataset}-{name}".replace("_", "-"),
                    "caption": caption_html(caption),
                    "alt": f"{title}, {dataset}. {first}",
                    "table": None,
                    "figure": _data_uri(figures[file], "image/png"),
                    "width": round(width * 0.6),  # drawn at 160 pixels an inch, and a page has 96
                    "height": round(height * 0.6),
                }
            )
    return parts


def caption_html(text: str) -> Markup:
    """Paragraphs of plain reST, with ``literals``."""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip())]
    code = [re.sub(r"``(.+?)``", r"<code>\1</code>", str(escape(part))) for part in paragraphs if part]
    return Markup("\n".join(f"<p>{part}</p>" for part in code))


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"

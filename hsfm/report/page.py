"""The page of all results: tables, pictures, captions and settings in; one HTML file that needs nothing else out."""

import base64
import html
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any
from xml.etree import ElementTree

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hsfm.core.text import duration
from hsfm.report import contents
from hsfm.report.names import method_label

SETTINGS_FILE = "results/config.yaml"
SPACE = "\N{NO-BREAK SPACE}"
LONG = 20  # rows of a table that scrolls within the page
MEASURES = {"worst_group": "worst-group accuracy", "worst_class": "worst-class accuracy"}


@dataclass(frozen=True)
class Table:
    name: str
    fragment: str  # of TextTable.html
    caption: str  # reST: paragraphs, ``literals``


@dataclass(frozen=True)
class Picture:
    dataset: str
    name: str
    png: bytes
    caption: str


@dataclass(frozen=True)
class Provenance:
    made: date  # of the newest result
    seconds: float | None = None  # of all jobs together
    version: str | None = None  # of hsfm
    commit: str | None = None
    dirty: bool = False  # whether code had changes that were in no commit
    mixed: bool = False  # whether other jobs were made from other commits


def provenance(made: date, stages: pd.DataFrame, versions: pd.DataFrame) -> Provenance:
    """Out of the tables of stages and versions; what most jobs were made with, where they differ.

    stages: with `seconds`, null where not known. versions: with hsfm, commit, dirty and jobs, null likewise.
    """
    known = stages["seconds"].dropna()
    most = versions.sort_values("jobs", ascending=False, kind="stable")
    version, commit = (next(iter(most[name].dropna().astype(str)), None) for name in ("hsfm", "commit"))
    return Provenance(
        made=made,
        seconds=float(known.sum()) if len(known) else None,
        version=version,
        commit=commit,
        dirty=bool((versions["dirty"] == True).any()),  # noqa: E712  (null where not known)
        mixed=len(set(versions["commit"].dropna())) > 1,
    )


def write_page(
    tables: Sequence[Table], pictures: Sequence[Picture], main: pd.DataFrame, settings: str, provenance: Provenance
) -> str:
    """The page as HTML text.

    main: of `tables.aggregate`; with the columns of `uncertainty.measure`, where differences were tested. settings: the
    YAML text of SETTINGS_FILE, empty where there is none. Raises ValueError naming a table or picture that is none.
    """
    environment = Environment(
        loader=PackageLoader("hsfm.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    datasets = _in_words(list(dict.fromkeys(main["dataset"])))
    methods = [method_label(m) for m in dict.fromkeys(main["method"])]
    reproduce = _command([], provenance.commit)
    return environment.get_template("report.html.jinja").render(
        title=f"Worst-group robustness on {datasets}",
        lead=f"{_in_words(methods)} compared on {datasets}, on the test images of every group.",
        summary=summary(main, provenance),
        sections=_sections(tables, pictures, provenance.commit, len(set(main["dataset"])) > 1, bool(settings)),
        settings=settings,
        settings_file=SETTINGS_FILE,
        settings_link=_data_uri(settings.encode(), "text/yaml;charset=utf-8"),
        reproduce_all=reproduce,
        dirty=provenance.dirty,
        mixed=provenance.mixed,
        foot=f"{_made_with(provenance)} Results of {_day(provenance.made)}.",
    )


# In short ------------------------------------------------------------------------------------------------------------


def summary(main: pd.DataFrame, provenance: Provenance) -> list[tuple[str, list[str]]]:
    """Questions of a reader, each with sentences that answer it."""
    best = [sentence for _, part in main.groupby("dataset", sort=False) for sentence in best_method(part)]
    took = "Not known: there is no record of the jobs."
    if provenance.seconds is not None:
        took = (
            f"All stages together took {duration(provenance.seconds)} by the clock, one after the other; the topic "
            "Costs has every stage, and what each method takes."
        )
    return [
        ("Which method is best", best),
        ("Group labels", group_labels(main)),
        ("Which average", [
            "“Average” is the plain mean over test images. The adjusted average, which weights groups by their share "
            "of the training split and can be much higher, stands in columns of that name only."
        ]),
        ("Over how many", [repetitions(main)]),
        ("How long it took", [took]),
        ("When, with what", [f"{_made_with(provenance)} The newest result is of {_day(provenance.made)}."]),
    ]  # fmt: skip


def best_method(main: pd.DataFrame) -> list[str]:
    """Sentences on one dataset: the best method, by how much over ERM and the best other, and what is no difference.

    Judged by the worst group, or by the worst class where no group is known. What is shown equal is called equal. With
    a column `worst_group_best` the methods that are not told apart from the best are those that it marks; without one
    those whose deviations reach the best's.
    """
    dataset = main["dataset"].iloc[0]
    measure = "worst_group" if main["worst_group_percent"].notna().any() else "worst_class"
    value, spread = (main[f"{measure}_{part}"].astype(float) for part in ("percent", "deviation"))
    rows = main.assign(value=value, spread=spread)
    rows = rows[rows["value"].notna()].set_index("method")
    order = rows["value"].sort_values(ascending=False, kind="stable").index
    top = rows["value"].round(1).max()
    first = [method for method in order if rows.loc[method, "value"].round(1) == top]
    best, others = first[0], [method for method in order if method not in first]
    what = MEASURES[measure]
    if len(first) > 1:
        found = f"On {dataset} {_names(first)} share the highest {what}, {top:.1f}{SPACE}%"
    else:
        found = f"On {dataset} {method_label(best)} has the highest {what}, {_with_spread(rows.loc[best])}"
    above = []
    if "erm" in others:
        above.append(f"{_points(rows, best, 'erm')} above ERM ({_with_spread(rows.loc['erm'])}{_gap(rows, best)})")
    rivals = [method for method in others if method != "erm"]
    if rivals and len(first) == 1:
        other = rivals[0]
        above.append(
            f"{_points(rows, best, other)} above the best other, {method_label(other)} "
            f"({_with_spread(rows.loc[other])})"
        )
    sentences = [f"{found}{': ' if above else ''}{_in_words(above)}."]
    sentences += _ties(rows, measure, best, others, rivals)
    free = rows[rows["group_labels"] != "training"]
    if rows.loc[best, "group_labels"] == "training" and len(free):
        winner = free["value"].idxmax()
        sentences.append(
            f"Among those that train without group labels {method_label(winner)} is best, "
            f"{_with_spread(free.loc[winner])}."
        )
    average = rows["average_percent"].astype(float)
    sentences.append(
        f"Average accuracy of {method_label(best)}: {average[best]:.1f} %"
        + (f", of ERM {average['erm']:.1f} %." if "erm" in others else ".")
    )
    return sentences


def _ties(rows: pd.DataFrame, measure: str, best: str, others: Sequence[str], rivals: Sequence[str]) -> list[str]:
    """Sentences that name statistical ties."""
    if not others:
        return []
    if f"{measure}_best" in rows:
        tied = [method for method in others if rows.loc[method, f"{measure}_best"]]
        if tied:
            return [
                f"{_names(tied)} cannot be told apart from {method_label(best)} on these test images (95 % interval of "
                "a bootstrap over them): which of them is best is not known."
            ]
        return ["All other methods are told apart from it by a bootstrap over the test images (95 % intervals)."]
    spread = rows["spread"].fillna(0)
    close = [m for m in rivals if (rows["value"][best] - rows["value"][m]).round(4) <= spread[[best, m]].sum().round(4)]
    if close:
        return [f"{_names(close)} lie{'s' if len(close) == 1 else ''} within the deviations: that is no difference."]
    return []


def group_labels(main: pd.DataFrame) -> list[str]:
    """Which methods used group labels, and for what; of a method the most that it used on any dataset."""
    used: dict[str, list[str]] = {"training": [], "selection": [], "none": []}
    for method, part in main.groupby("method", sort=False):
        used[next(use for use in used if use in set(part["group_labels"]))].append(method)
    said = {
        "training": "{} trained on the group labels of validation images",
        "selection": "{} used those of validation to choose an epoch or a setting, not to train",
        "none": "{} used none",
    }
    parts = [said[use].format(_names(methods)) for use, methods in used.items() if methods]
    if list(used.values())[:2] == [[], []]:
        return ["No method used group labels."]
    return [f"{'; '.join(parts)}.", "No method saw group labels of training images; test labels only score."]


def repetitions(main: pd.DataFrame) -> str:
    """A sentence that says over which repetitions means and deviations are taken."""
    runs, seeds = int(main["runs"].max()), int(main["seeds"].max())
    single = list(dict.fromkeys(main.loc[main["seeds"] < seeds, "method"]))
    exception = f" ({_names(single)}: one head)" if single and main["seeds"].min() == 1 else ""
    if runs > 1:
        each = f", each the mean of {seeds} seeds of the method{exception}" if seeds > 1 else ""
        return (
            f"Numbers are means over {runs} trained networks{each}; ± is the sample standard deviation over networks."
        )
    if seeds > 1:
        return (
            f"Numbers are means over {seeds} seeds of each method{exception}, all on one trained network; ± is the "
            "sample standard deviation over seeds, and says nothing about another network."
        )
    return "One seed on one trained network: there is no deviation, and small differences cannot be read."


def _points(rows: pd.DataFrame, method: str, other: str) -> str:
    difference = rows["value"][method].round(1) - rows["value"][other].round(1)
    return f"{difference:.1f} point{'' if f'{difference:.1f}' == '1.0' else 's'}"


def _gap(rows: pd.DataFrame, best: str) -> str:
    """The interval of the worst group's difference to ERM, where it is known."""
    ends = [f"worst_group_to_erm_{end}" for end in ("low", "high")]
    if not set(ends) <= set(rows) or rows.loc[best, ends].isna().any():
        return ""
    low, high = rows.loc[best, ends]
    return f"; 95{SPACE}% interval of the difference {low:.1f} to {high:.1f}"


def _with_spread(row: pd.Series) -> str:
    spread = "" if pd.isna(row["spread"]) else f"{SPACE}±{SPACE}{row['spread']:.1f}"
    return f"{row['value']:.1f}{spread}{SPACE}%"


def _names(methods: Iterable[str]) -> str:
    return _in_words([method_label(method) for method in methods])


def _in_words(items: Sequence[str]) -> str:
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def _day(day: date) -> str:
    return f"{day.day} {day:%B %Y}"


def _made_with(provenance: Provenance) -> str:
    version = f"hsfm {provenance.version}" if provenance.version else "hsfm"
    commit = f", commit {provenance.commit[:12]}" if provenance.commit else ""
    changed = ", with changes that were not committed" if provenance.dirty else ""
    others = "; some results by other commits, which the topic Versions has" if provenance.mixed else ""
    return f"Made by {version}{commit}{changed}{others}."


# Topics, tables, pictures --------------------------------------------------------------------------------------------


def _sections(
    tables: Sequence[Table], pictures: Sequence[Picture], commit: str | None, several: bool, settings: bool
) -> list[dict[str, Any]]:
    """Sections of the page, one per topic: the tables, then the pictures dataset by dataset."""
    topics = [(topic.title, topic.name, [*topic.tables], [*topic.figures]) for topic in contents.TOPICS]
    topics.append((contents.OTHERS, "more", [], []))
    sections = []
    for title, anchor, known_tables, known_figures in topics:
        of_topic = sorted(
            (table for table in tables if contents.table_topic(table.name) == title),
            key=lambda table: _place(table.name, known_tables),
        )
        drawn = sorted(
            (picture for picture in pictures if contents.figure_topic(picture.name) == title),
            key=lambda picture: _place(picture.name, known_figures),
        )
        datasets = dict.fromkeys(picture.dataset for picture in pictures)
        parts = [_table_part(table, commit) for table in of_topic]
        parts += [_picture_part(p, several) for dataset in datasets for p in drawn if p.dataset == dataset]
        if parts or (anchor == "settings" and settings):
            sections.append({"title": title, "anchor": anchor, "parts": parts})
    return sections


def _place(name: str, known: Sequence[str]) -> int:
    return known.index(name) if name in known else len(known)


def _table_part(table: Table, commit: str | None) -> dict[str, Any]:
    title = contents.table_title(table.name)
    return {
        "title": title,
        "anchor": f"about-{table.name.replace('_', '-')}",
        "caption": caption_html(table.caption),
        "table": Markup(table_html(table, title, commit)),
        "figure": None,
    }


def table_html(table: Table, title: str, commit: str | None) -> str:
    """A table's fragment in a container that scrolls, with a command for each row: of the results that it is made from,
    of the table itself where it names none, as costs and versions do."""
    figure = _parsed(table)
    found, head = figure.find("table"), figure.find("table/thead/tr")
    if found is None or head is None:
        raise ValueError(f"table {table.name}: not a table as hsfm.core.text_tables writes it")
    body = found.findall("tbody/tr")
    kinds = [column.get("class", "text") for column in head]
    for row in body:
        for cell, kind in zip(row, kinds, strict=True):
            cell.set("class", kind)
        _add_command(row, row.get("data-made-from", f"results/tables/{table.name}.md").split(), commit)
    column = ElementTree.SubElement(head, "th", {"class": "reproduce", "scope": "col"})
    ElementTree.SubElement(column, "span", {"class": "said"}).text = "Reproduce"
    long = " long" if len(body) > LONG else ""
    container = ElementTree.Element(
        "div", {"class": f"scroll{long}", "role": "region", "tabindex": "0", "aria-label": f"Table: {title}"}
    )
    figure.remove(found)
    container.append(found)
    figure.insert(0, container)
    return ElementTree.tostring(figure, encoding="unicode", method="html")


def made_from(table: Table) -> list[str]:
    """The results that a table's rows are made from, as far as it says."""
    rows = _parsed(table).iterfind("table/tbody/tr")
    return list(dict.fromkeys(file for row in rows for file in row.get("data-made-from", "").split()))


def _parsed(table: Table) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(table.fragment)
    except ElementTree.ParseError as error:
        raise ValueError(f"table {table.name}: not a table as hsfm.core.text_tables writes it ({error})") from error


def _add_command(row: ElementTree.Element, files: Sequence[str], commit: str | None) -> None:
    cell = ElementTree.SubElement(row, "td", {"class": "reproduce"})
    label = "".join(row[0].itertext())
    button = ElementTree.SubElement(
        cell,
        "button",
        {
            "type": "button",
            "class": "reproduce",
            "data-command": _command(files, commit),
            "aria-label": f"Reproduce this line: {label}",
        },
    )
    button.text = "reproduce"


def _command(files: Sequence[str], commit: str | None) -> str:
    """The command that makes these results, or all, with the saved settings; --configfile takes all that follow it."""
    call = " ".join(["snakemake", *files, "--cores 2", f"--configfile {SETTINGS_FILE}"])
    return f"git checkout {commit}\n{call}" if commit else call


def _picture_part(picture: Picture, several: bool) -> dict[str, Any]:
    title = contents.figure_title(picture.name) + (f": {picture.dataset}" if several else "")
    width, height = png_size(picture)
    first = re.split(r"(?<=[.])\s", " ".join(picture.caption.split()).replace("``", ""))[0]
    return {
        "title": title,
        "anchor": f"figure-{picture.dataset}-{picture.name}".replace("_", "-"),
        "caption": caption_html(picture.caption),
        "alt": f"{contents.figure_title(picture.name)}, {picture.dataset}. {first}",
        "table": None,
        "figure": _data_uri(picture.png, "image/png"),
        "width": round(width * 0.6),  # drawn at 160 pixels an inch, and a page has 96
        "height": round(height * 0.6),
    }


def png_size(picture: Picture) -> tuple[int, int]:
    """Width and height in pixels, out of the file's header."""
    if picture.png[:8] != b"\x89PNG\r\n\x1a\n" or len(picture.png) < 24:
        raise ValueError(f"figure {picture.name} of {picture.dataset}: not a PNG file")
    return struct.unpack(">II", picture.png[16:24])


def caption_html(text: str) -> Markup:
    """Paragraphs of plain reST, with ``literals``."""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip()) if part.strip()]
    code = [re.sub(r"``(.+?)``", r"<code>\1</code>", html.escape(part)) for part in paragraphs]
    return Markup("\n".join(f"<p>{part}</p>" for part in code))


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"

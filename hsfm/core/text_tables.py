"""Text tables in Markdown, LaTeX and HTML."""

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from hsfm.core.files import write_atomically


def write_tables(paths: Iterable[str | Path], tables: Mapping[str, tuple[pd.DataFrame, "TextTable"]]) -> None:
    """Write the table that a path's stem names: its numbers (.csv) or its text (.md, .tex, .html)."""
    for path in map(Path, paths):
        frame, text = tables[path.stem]
        content = {
            ".csv": lambda frame=frame: frame.to_csv(index=False, float_format="%.4f"),
            ".md": text.markdown,
            ".tex": lambda text=text, name=path.stem: text.latex(f"tab:{name}"),
            ".html": lambda text=text, name=path.stem: text.html(f"table-{name}"),
        }[path.suffix]()
        with write_atomically(path) as temporary:
            temporary.write_text(content)


STYLES = ("\033[4mTEXT\033[24m", "\033[1mTEXT\033[22m")  # underlined and bold on a terminal


@dataclass(frozen=True)
class Cell:
    text: str
    bold: bool = False
    underlined: bool = False
    order: float | None = None  # what a column is sorted by, where the text does not begin with that number

    def marked(self, text: str, underlined: str, bold: str) -> str:
        """The text, escaped before, in the marks that apply."""
        text = underlined.replace("TEXT", text) if self.underlined else text
        return bold.replace("TEXT", text) if self.bold else text

    def markdown(self) -> str:
        return self.marked(_one_line(self.text), "<u>TEXT</u>", "**TEXT**")

    def latex(self) -> str:
        return self.marked(latex(self.text), r"\underline{TEXT}", r"\textbf{TEXT}")

    def html(self, number: bool) -> str:
        kind = ' class="number"' if number else ""
        order = "" if self.order is None else f' data-order="{self.order}"'
        text = self.marked(escape(self.text), "<u>TEXT</u>", "<strong>TEXT</strong>")
        return f"<td{kind}{order}>{text}</td>"


@dataclass(frozen=True)
class TextTable:
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]
    text_columns: int = 2  # the first ones; the others hold numbers and are aligned to the right
    made_from: tuple[tuple[str, ...], ...] = ()  # by row, the results that its numbers are out of; none where not known
    title: str = ""  # in LaTeX, the caption
    parted: tuple[int, ...] = ()  # rows that begin a block: above them is a rule, in Markdown an empty row
    # whether in HTML each value of the first column, where it has several, heads the rows that follow instead
    sectioned: bool = False
    page: "TextTable | None" = None  # what HTML shows instead, where a page needs another form

    @classmethod
    def of(
        cls, frame: pd.DataFrame, columns: Sequence[tuple[str, str | Callable[[dict], Any]]] = (), **others: Any
    ) -> "TextTable":
        """A line per row of a frame. columns: header, and the frame's column or a function that makes the cell."""
        columns = columns or [(name, name) for name in frame]
        rows = [
            [row[make] if isinstance(make, str) else make(row) for _, make in columns]
            for row in frame.to_dict("records")
        ]
        cells = tuple(tuple(cell if isinstance(cell, Cell) else Cell(str(cell)) for cell in row) for row in rows)
        return cls(tuple(header for header, _ in columns), cells, **others)

    def terminal(self, *, styled: bool, width: int = 100) -> str:
        """Aligned columns, an empty line above a block, and the notes in lines of at most `width` characters.

        styled: whether the terminal shows bold and underlined text; else `*` and `+` after a cell stand for them.
        """
        plain = [
            [_one_line(c.text) + ("" if styled else "*" * c.bold + "+" * c.underlined) for c in r] for r in self.rows
        ]
        widths = [max(map(len, column)) for column in zip(self.header, *plain, strict=True)]
        lines = [self._aligned(self.header, self.header, widths)]
        for place, (row, texts) in enumerate(zip(self.rows, plain, strict=True)):
            marked = [cell.marked(text, *STYLES) for cell, text in zip(row, texts, strict=True)]
            lines += [""] * (place in self.parted) + [self._aligned(marked if styled else texts, texts, widths)]
        return "\n".join([*lines, "", *(textwrap.fill(note, width) for note in self.notes)]) + "\n"

    def _aligned(self, shown: Sequence[str], texts: Sequence[str], widths: Sequence[int]) -> str:
        """A line of cells. texts: what is seen of `shown`."""
        gaps = [" " * (width - len(text)) for text, width in zip(texts, widths, strict=True)]
        left = range(self.text_columns)
        cells = [text + gap if i in left else gap + text for i, (text, gap) in enumerate(zip(shown, gaps, strict=True))]
        return "  ".join(cells).rstrip()

    def markdown(self) -> str:
        """A pipe table, then the notes."""
        ends = ["---" if column < self.text_columns else "---:" for column in range(len(self.header))]
        lines = [map(_one_line, self.header), ends]
        for place, row in enumerate(self.rows):
            lines += [[""] * len(row)] * (place in self.parted) + [map(Cell.markdown, row)]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"{table}\n\n" + "\n".join(f"{note}  " for note in self.notes).rstrip() + "\n"

    def latex(self, label: str) -> str:
        """A table environment that compiles with the package booktabs alone; the notes stand below the table."""
        frame = pd.DataFrame([map(Cell.latex, row) for row in self.rows], columns=list(map(latex, self.header)))
        frame.iloc[list(self.parted), :1] = "\\midrule\n" + frame.iloc[list(self.parted), :1]
        columns = "l" * self.text_columns + "r" * (len(self.header) - self.text_columns)
        head = {"position": "htbp", "position_float": "centering", "caption": latex(self.title), "label": label}
        table = frame.style.hide(axis="index").to_latex(column_format=columns, hrules=True, **head)
        notes = (f"\\par\\smallskip\\raggedright\\footnotesize {latex(note)}\n" for note in self.notes)
        return table.replace(r"\end{table}", "".join(notes) + r"\end{table}")

    def html(self, name: str) -> str:
        """A fragment: `<figure class="table" id=name>` with a table in a frame that may scroll, and its notes.

        A table in sections has a `<tbody>` for each, whose first row is its heading.
        """
        if self.page is not None:
            return self.page.html(name)
        sections = [(text, list(own)) for text, own in groupby(range(len(self.rows)), lambda n: self.rows[n][0].text)]
        left = int(self.sectioned and len(sections) > 1)  # columns that became headings
        if not left:
            sections = [("", range(len(self.rows)))]
        numbers = [column >= self.text_columns for column in range(left, len(self.header))]
        kinds = ["number" if number else "text" for number in numbers]
        named = zip(self.header[left:], kinds, strict=True)
        head = [f'<th scope="col" class="{kind}">{escape(text)}</th>' for text, kind in named]
        bodies = []
        for text, places in sections:
            bodies += ["<tbody>", *([_section(text, len(numbers))] if left else [])]
            bodies += [self._row(place, numbers, rule=place != places[0]) for place in places]
            bodies.append("</tbody>")
        lines = [
            f'<figure class="table" id="{escape(name)}">',
            f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(self.title or name)}">',
            *("<table>", f"<thead><tr>{''.join(head)}</tr></thead>", *bodies, "</table>"),
            "</div>",
            *("<figcaption>", *(f"<p>{escape(note)}</p>" for note in self.notes), "</figcaption>"),
            "</figure>",
        ]
        return "\n".join(lines) + "\n"

    def _row(self, place: int, numbers: Sequence[bool], *, rule: bool) -> str:
        """A row's last cells in HTML, as many as `numbers`. rule: whether one may stand above it."""
        parted = ' class="parted"' if rule and place in self.parted else ""
        files = self.made_from[place] if self.made_from else ()
        source = f' data-made-from="{escape(" ".join(files))}"' if files else ""
        cells = self.rows[place][len(self.header) - len(numbers) :]
        return f"<tr{parted}{source}>{''.join(map(Cell.html, cells, numbers))}</tr>"


def _section(text: str, columns: int) -> str:
    return f'<tr class="section"><th scope="rowgroup" colspan="{columns}">{escape(text)}</th></tr>'


def percent(value: float, deviation: float, form: str = ".1f") -> str:
    """A mean with its deviation, or alone where there is none; a dash where there is no mean."""
    if pd.isna(value):
        return "-"
    return f"{value:{form}}" + ("" if pd.isna(deviation) else f" ± {deviation:.1f}")


def signed(value: float, deviation: float = float("nan")) -> str:
    """A difference in points, as `percent`."""
    return percent(round(value, 1) + 0.0, deviation, "+.1f")  # no -0.0


def _one_line(text: str) -> str:
    """A text inside a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", r"\|")


_LATEX = str.maketrans(
    {
        **{special: rf"\{special}" for special in "{}#$&%_"},
        **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
        **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
        **{"[": "{[}", "*": "{*}"},  # after the end of a row these would belong to it
        **{"±": r"$\pm$", "≤": r"$\leq$", "≥": r"$\geq$", "\u00d7": r"$\times$", "\u2212": "$-$"},
        **{"\u2013": "--", "\u2014": "---", "\u2026": r"\ldots{}"},
    }
)


def latex(text: str) -> str:
    """A text for LaTeX without any package but for letters beyond those with accents."""
    return " ".join(text.split()).translate(_LATEX)

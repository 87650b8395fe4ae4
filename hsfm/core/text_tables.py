"""Text tables in Markdown, LaTeX and HTML."""

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hsfm.core.files import write_atomically


def write_table(path: str | Path, frame: pd.DataFrame, text: "TextTable") -> None:
    """Write the numbers (.csv) or the table for readers (.md, .tex, .html), as the suffix says."""
    path = Path(path)
    content = {
        ".csv": lambda: frame.to_csv(index=False, float_format="%.4f"),
        ".md": text.markdown,
        ".tex": lambda: text.latex(f"tab:{path.stem}"),
        ".html": lambda: text.html(f"table-{path.stem}"),
    }[path.suffix]()
    with write_atomically(path) as temporary:
        temporary.write_text(content)


def write_tables(paths: Iterable[str | Path], tables: Mapping[str, tuple[pd.DataFrame, "TextTable"]]) -> None:
    """Write numbers or text, as `write_table` does, to each path, whose stem names the table."""
    for path in paths:
        write_table(path, *tables[Path(path).stem])


LATEX_ROWS = 40  # on a page


@dataclass(frozen=True)
class Cell:
    text: str
    bold: bool = False
    underlined: bool = False
    order: float | None = None  # what a column is sorted by, where the text does not begin with that number

    def markdown(self) -> str:
        text = f"<u>{escape(self.text)}</u>" if self.underlined else escape(self.text)
        return f"**{text}**" if self.bold else text

    def latex(self) -> str:
        text = latex(self.text)
        text = rf"\underline{{{text}}}" if self.underlined else text
        return rf"\textbf{{{text}}}" if self.bold else text

    def html(self, number: bool) -> str:
        text = html.escape(self.text)
        text = f"<u>{text}</u>" if self.underlined else text
        text = f"<strong>{text}</strong>" if self.bold else text
        order = "" if self.order is None else f' data-order="{self.order}"'
        kind = ' class="number"' if number else ""
        return f"<td{kind}{order}>{text}</td>"


@dataclass(frozen=True)
class TextTable:
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]
    text_columns: int = 2  # the first ones; the others hold numbers and are aligned to the right
    made_from: tuple[tuple[str, ...], ...] = ()  # by row, the results that its numbers are out of; none where not known
    title: str = ""  # in LaTeX, the caption

    @classmethod
    def of(
        cls,
        frame: pd.DataFrame,
        columns: Sequence[tuple[str, str | Callable[[dict], Any]]] | None = None,
        **others: Any,
    ) -> "TextTable":
        """A line per row of a frame. columns: header, and the frame's column or a function that makes the cell."""
        columns = [(name, name) for name in frame] if columns is None else columns
        rows = [
            [row[make] if isinstance(make, str) else make(row) for _, make in columns]
            for row in frame.to_dict("records")
        ]
        cells = tuple(tuple(cell if isinstance(cell, Cell) else Cell(str(cell)) for cell in row) for row in rows)
        return cls(tuple(header for header, _ in columns), cells, **others)

    def markdown(self) -> str:
        """A pipe table, then the notes."""
        lines = [
            [escape(name) for name in self.header],
            ["---" if i < self.text_columns else "---:" for i in range(len(self.header))],
        ]
        lines += [[cell.markdown() for cell in row] for row in self.rows]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return table + "\n\n" + "\n".join(f"{note}  " for note in self.notes).rstrip() + "\n"

    def latex(self, label: str) -> str:
        """A table environment that compiles with the package booktabs alone; the notes stand below the table.

        One that is too long for a page goes on in another.
        """
        parts = [self.rows[i : i + LATEX_ROWS] for i in range(0, len(self.rows), LATEX_ROWS)] or [()]
        lines = []
        for number, rows in enumerate(parts):
            last = number == len(parts) - 1
            lines += [
                r"\begin{table}[htbp]",
                r"\centering",
                *([rf"\caption{{{latex(self.title)}}}", rf"\label{{{label}}}"] if number == 0 else []),
                *self._tabular(rows),
                *(rf"\par\smallskip\raggedright\footnotesize {latex(note)}" for note in self.notes if last),
                r"\end{table}",
            ]
        return "\n".join(lines) + "\n"

    def _tabular(self, rows: Iterable[tuple[Cell, ...]]) -> list[str]:
        columns = "l" * self.text_columns + "r" * (len(self.header) - self.text_columns)
        return [
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            _latex_row(latex(name) for name in self.header),
            r"\midrule",
            *(_latex_row(cell.latex() for cell in row) for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
        ]

    def html(self, name: str) -> str:
        """A fragment: `<figure class="table" id=name>` with a table in a frame that may scroll, and its notes.

        Rows carry the results that they are made from as `data-made-from`, cells what they are sorted by as
        `data-order` where their text does not say it.
        """
        numbers = [column >= self.text_columns for column in range(len(self.header))]
        head = [
            f'<th scope="col" class="{kind}">{html.escape(column)}</th>'
            for column, kind in zip(self.header, ["number" if number else "text" for number in numbers], strict=True)
        ]
        body = [
            f"<tr{_made_from(files)}>{''.join(map(Cell.html, row, numbers))}</tr>"
            for files, row in zip(self.made_from or ((),) * len(self.rows), self.rows, strict=True)
        ]
        lines = [
            f'<figure class="table" id="{html.escape(name)}">',
            f'<div class="scroll" role="region" tabindex="0" aria-label="{html.escape(self.title or name)}">',
            "<table>",
            f"<thead><tr>{''.join(head)}</tr></thead>",
            *("<tbody>", *body, "</tbody>"),
            "</table>",
            "</div>",
            *("<figcaption>", *(f"<p>{html.escape(note)}</p>" for note in self.notes), "</figcaption>"),
            "</figure>",
        ]
        return "\n".join(lines) + "\n"


def _made_from(files: Iterable[str]) -> str:
    return f' data-made-from="{html.escape(" ".join(files))}"' if files else ""


def percent(value: float, deviation: float) -> str:
    """A mean with its deviation, or alone where there is none; a dash where there is no mean."""
    if pd.isna(value):
        return "-"
    return f"{value:.1f}" + ("" if pd.isna(deviation) else f" ± {deviation:.1f}")


def signed(value: float, deviation: float) -> str:
    """A difference in points, with its deviation where there is one; a dash where there is no difference."""
    if pd.isna(value):
        return "-"
    return f"{round(value, 1) + 0.0:+.1f}" + ("" if pd.isna(deviation) else f" ± {deviation:.1f}")


def escape(text: str) -> str:
    """A text inside a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", r"\|")


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # after the end of a row these would belong to it
    "[": "{[}",
    "*": "{*}",
    "±": r"$\pm$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "\u00d7": r"$\times$",
    "\u2212": "$-$",
    "\u2013": "--",
    "\u2014": "---",
    "\u2026": r"\ldots{}",
    **{special: rf"\{special}" for special in "#$&%_"},
}


def latex(text: str) -> str:
    """A text for LaTeX without any package: what it has no letter for is the number of its Unicode character."""
    return "".join(_LATEX.get(letter) or _latex_letter(letter) for letter in " ".join(text.split()))


def _latex_letter(letter: str) -> str:
    # up to U+017F, letters with accents: what LaTeX reads by itself
    readable = letter.isascii() or (letter.isalpha() and ord(letter) < 0x180)
    return letter if readable and letter.isprintable() else f"{{[}}U+{ord(letter):04X}]"


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"

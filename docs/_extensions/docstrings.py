"""Docstrings and annotations of hsfm as its authors write them: plain prose, and shapes as `Float[Tensor, "n d"]`.

autodoc takes a docstring for reStructuredText, in which a star or a bar means something. Here it is taken for text with
`code` between backticks, indented blocks that stay as they are, headings with a line of dashes under them, and
`name : what it is` under such a heading.
"""

import dataclasses
import inspect
import re
from collections.abc import Iterable, Iterator

from sphinx.application import Sphinx

_FIELD = re.compile(r"^    (?P<name>[a-z]\w*): .*?  # (?P<meaning>.+)$", re.MULTILINE)
_ENTRY = re.compile(r"^(?P<names>\w+(?: \[[^]]*\])?(?:(?:, | or )[\w\[\] ]+)*) : (?P<meaning>.*)$")


def as_rest(lines: Iterable[str]) -> list[str]:
    """A docstring's lines as reStructuredText that shows them."""
    lines, out, listed, verbatim = list(lines), [], False, False
    for i, line in enumerate(lines):
        following = lines[i + 1] if i + 1 < len(lines) else ""
        if line and re.fullmatch(r"-{3,}", following):
            out += ["", f".. rubric:: {_text(line)}", ""]
            listed = True
            continue
        if re.fullmatch(r"-{3,}", line):
            continue
        entry = _ENTRY.match(line) if listed else None
        indented = line.startswith("    ")
        if entry:
            out += ["", f"- ``{entry['names']}``: {_text(entry['meaning'])}"]
        elif indented and listed:
            out.append(f"  {_text(line.strip())}")
        elif indented:
            if not verbatim:
                out += ["", "::", ""]
            out.append(line)
        elif line.startswith((">>> ", "... ")):
            out.append(line)
        else:
            if listed and line:
                out.append("") if out and out[-1].startswith(("- ", "  ")) else None
                listed = False
            if verbatim and line:
                out.append("")
            out.append(_text(line))
        verbatim = (indented and not listed) or (verbatim and not line)
    return out


def _text(line: str) -> str:
    """Code between backticks as literals, and everything else without a meaning of its own."""
    parts = re.split(r"(`[^`]+`)", line)
    plain = (re.sub(r"([\\*|_`])", r"\\\1", part) for part in parts[::2])
    codes = (f"`{part}`" for part in parts[1::2])
    return "".join(piece for pair in zip(plain, [*codes, ""], strict=True) for piece in pair)


def _rewrite(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    text = as_rest(lines)
    if what == "class" and dataclasses.is_dataclass(obj):
        if (inspect.getdoc(obj) or "").startswith(f"{obj.__name__}("):  # what dataclasses writes where there is none
            text = []
        text += ["", *fields_of(obj)]
    lines[:] = [*text, ""]


def fields_of(kind: type) -> Iterator[str]:
    """A list of a dataclass's fields with the comments behind them."""
    for found in _FIELD.finditer(inspect.getsource(kind)):
        yield f"- ``{found['name']}``: {_text(found['meaning'])}"


def _shorten(app: Sphinx, what: str, name: str, obj: object, options: object, signature: str, returns: str) -> tuple:
    return tuple(part and re.sub(r"(?<![\w.~])jaxtyping\.", "~jaxtyping.", part) for part in (signature, returns))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", _rewrite)
    app.connect("autodoc-process-signature", _shorten)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

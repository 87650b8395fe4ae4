"""Docstrings and annotations of hsfm as its authors write them: plain prose, and shapes as `Float[Tensor, "n d"]`.

autodoc takes a docstring for reStructuredText, in which a star or a bar means something. Here it is taken for text with
`code` between backticks, indented blocks that stay as they are, headings with a line of dashes under them, and
`name : what it is` under such a heading.
"""

import dataclasses
import inspect
import re
from collections.abc import Iterable, Iterator
from itertools import groupby

from sphinx.application import Sphinx

_FIELD = re.compile(r"^    (?P<name>[a-z]\w*): .*?  # (?P<meaning>.+)$", re.MULTILINE)
_ENTRY = re.compile(r"^(?P<names>\w+(?: \[[^]]*\])?(?:(?:, | or )[\w\[\] ]+)*) : (?P<meaning>.*)$")


def as_rest(lines: Iterable[str]) -> list[str]:
    """A docstring's lines as reStructuredText that shows them."""
    out, listing = [], False
    for blank, group in groupby(lines, key=lambda line: not line):
        block = list(group)
        if blank:
            continue
        if len(block) > 1 and re.fullmatch(r"-{3,}", block[1]):
            out += [f".. rubric:: {_text(block[0])}", ""]
            block, listing = block[2:], True
        if not block:
            continue
        listing = listing and bool(_ENTRY.match(block[0]))
        if listing:
            out += _entries(block)
        elif block[0].startswith("    "):
            out += ["::", "", *block]
        else:
            out += block if block[0].startswith(">>> ") else map(_text, block)
        out.append("")
    return out


def _entries(block: Iterable[str]) -> Iterator[str]:
    for line in block:
        entry = _ENTRY.match(line)
        yield f"- ``{entry['names']}``: {_text(entry['meaning'])}" if entry else f"  {_text(line.strip())}"


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


def _shorten(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Signatures without jaxtyping's own name, and with nothing in them that is no Python."""
    if signature:
        signature = signature.replace("<factory>", "...")  # a dataclass's field that is made anew each time
    parts = (signature, returns)
    return tuple(part and re.sub(r"(?<![\w.~])jaxtyping\.", "~jaxtyping.", part) for part in parts)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", _rewrite)
    app.connect("autodoc-process-signature", _shorten)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

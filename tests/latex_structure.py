"""Whether a table is LaTeX that compiles with booktabs alone, as far as its structure tells; tests have no LaTeX."""

import re

SPECIAL = "#$&%_^~"
TEXT_COMMANDS = {
    "textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater", "textbar", "ldots", "textbf",
    "underline", "pm", "leq", "geq", "times", "par", "smallskip", "footnotesize", "raggedright", "caption",
    "label", "begin", "end", "centering", "toprule", "midrule", "bottomrule",
}  # fmt: skip


def check_latex(text: str) -> None:
    """Braces and environments are closed in order, a row has as many cells as there are columns, nothing is special."""
    assert text.count(r"\caption{") == text.count(r"\label{") == 1
    lines = text.splitlines()
    environments = re.findall(r"\\(begin|end)\{(\w+)\}", text)
    assert environments == [("begin", "table"), ("begin", "tabular"), ("end", "tabular"), ("end", "table")]
    columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)[1]
    first, last = lines.index(r"\toprule"), lines.index(r"\bottomrule")
    body = [line for line in lines[first + 1 : last] if line != r"\midrule"]
    assert lines[first + 2] == r"\midrule"
    for line in body:
        assert line.endswith(r" \\"), line
        assert len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1, line
        assert not re.match(r"\s*[\[*]", line), line  # they would belong to the end of the row before
        check_text(line.removesuffix(r" \\"), allowed="&")
    for line in lines[:first] + lines[last + 1 :]:
        check_text(re.sub(r"\\label\{tab:\w+\}", "", line))


def check_text(text: str, allowed: str = "") -> None:
    """Commands are known, math is closed, braces are balanced, letters are those LaTeX reads by itself."""
    left = re.sub(r"\\[#$&%_{}]", "", text)
    assert set(re.findall(r"\\([a-zA-Z]+)", left)) <= TEXT_COMMANDS, text
    left = re.sub(r"\\[a-zA-Z]+", "", left)
    left = re.sub(r"\$-?\$", "", left)
    assert "\\" not in left, text
    assert not set(left) & (set(SPECIAL) - set(allowed)), text
    assert all(letter.isascii() or (letter.isalpha() and ord(letter) < 0x180) for letter in left), text
    while re.search(r"\{[^{}]*\}", left):
        left = re.sub(r"\{[^{}]*\}", "", left)
    assert not set(left) & set("{}"), text

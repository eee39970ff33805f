"""Blocks as LaTeX tables in the style of booktabs."""

import re
from collections.abc import Iterable, Iterator, Sequence

from attnbench.report.growth import GROWTH
from attnbench.report.table import Block, Cell, legend

_HEAD = "% needs \\usepackage{booktabs}\n"
_ESCAPES = str.maketrans(
    {
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "`": r"\textasciigrave{}",
        "[": "{[}",  # after the end of a row, a bare bracket or star would be that row's option
        "]": "{]}",
        "*": "{*}",
    }
)


def latex(blocks: Sequence[Block]) -> str:
    """Render each block as a LaTeX table; names are escaped so that none of them is a command."""
    return "\n".join([_HEAD, *("\n".join(_block(block)) + "\n" for block in blocks)])


def _block(block: Block) -> Iterator[str]:
    yield "\\begin{table}\n\\centering"
    yield f"\\caption{{{_escaped('; '.join(filter(None, (block.title, block.context))))}}}"
    yield f"\\label{{tab:{'-'.join(re.findall('[a-z0-9]+', block.title.partition('(')[0].lower()))}}}"
    yield f"\\begin{{tabular}}{{{'l' * (len(block.axes) + 1)}{'r' * len(block.columns)}}}\n\\toprule"
    yield _row(map(_escaped, (*block.axes, f"variant / {block.across}", *block.columns)))
    for group in block.groups:
        yield "\\midrule"
        labels = [_escaped(label) for label in group.labels]
        for line in group.lines:
            yield _row([*labels, _escaped(line.name), *map(_cell, line.cells)])
            labels = [""] * len(labels)
    yield "\\bottomrule\n\\end{tabular}"
    marks = _escaped(legend([block], best="bold:", replicates=[block.replicates])).replace("+-", r"$\pm$")
    exponents = [f"{line.name} {line.exponent} ({line.local})" for line in block.growth]
    growth = [f"{GROWTH}: {'; '.join(exponents)}"] if exponents else []
    for note in (*map(_escaped, (*growth, *block.footnotes)), marks):
        if note:
            yield f"\n{{\\footnotesize {note}}}"
    yield "\\end{table}"


def _row(cells: Iterable[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _cell(cell: Cell) -> str:
    number = f"\\textbf{{{cell.text}}}" if cell.best else _escaped(cell.text)
    margin = f"$\\pm$ {_escaped(cell.margin)}" if cell.margin else ""
    return " ".join(filter(None, (number, margin, _escaped(cell.mark))))


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)

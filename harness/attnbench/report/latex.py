"""Blocks as LaTeX tables in the style of booktabs."""

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
        "[": "{[}",  # after the end of a row, a bare bracket would be that row's option, and a star too
        "]": "{]}",
        "*": "{*}",
    }
)


def latex(blocks: Sequence[Block]) -> str:
    """Write blocks as LaTeX, a table each; names are escaped so that none of them is a command."""
    return "\n".join([_HEAD, *("\n".join(_block(block)) + "\n" for block in blocks)])


def _block(block: Block) -> Iterator[str]:
    yield "\\begin{table}\n\\centering"
    yield f"\\caption{{{_escaped('; '.join(filter(None, (block.title, block.context))))}}}"
    yield f"\\begin{{tabular}}{{{'l' * (len(block.axes) + 1)}{'r' * len(block.columns)}}}\n\\toprule"
    yield _row(map(_escaped, (*block.axes, f"variant / {block.across}", *block.columns)))
    for group in block.groups:
        yield "\\midrule"
        labels = [_escaped(label) for label in group.labels]
        for line in group.lines:
            yield _row([*labels, _escaped(line.name), *map(_cell, line.cells)])
            labels = [""] * len(labels)
    yield "\\bottomrule\n\\end{tabular}"
    floor = [f"harness floor: {block.floor}"] if block.floor else []
    marks = _escaped(legend([block], best="bold:", replicates=[block.replicates])).replace("+-", r"$\pm$")
    powers = [f"{each.name} {each.exponent} ({each.local})" for each in block.grown]
    growth = [f"{GROWTH} {'; '.join(powers)}"] if powers else []
    for note in (*map(_escaped, (*growth, *block.crossings, *floor, *block.notes)), marks):
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

"""The block that ends a run's tables: what each variant costs and gives up, and whether it is on the front."""

import io

from rich.cells import cell_len
from rich.console import Console

from attnbench.analysis.rows import rows
from attnbench.report.latex import latex
from attnbench.report.markdown import markdown
from attnbench.report.summary import blocks, summaries
from attnbench.report.table import tables
from attnbench.report.terminal import Tables
from unit.analysis.test_pareto import once, planted, scores, times
from unit.report.scenarios import SCENARIOS


def found():
    whole = planted(fast=(1e-3, 0.5), slow=(2e-3, 0.4), exact=(4e-3, 0.99))
    sizes = {"fast": 2**20, "slow": 2**19, "exact": 2**24}
    whole += [each for name, size in sizes.items() for each in once(name, "memory", size, "bytes")]
    whole += [times("odd", 1.5e-3), *scores("odd", 0.45, seeds=1)]
    return whole


def marks(block):
    (group,) = block.groups
    place = block.columns.index("front")
    return {line.name: tuple(cell.text for cell in line.cells[place:]) for line in group.lines}


def test_each_variant_has_its_figures_and_a_mark_and_the_notes_name_the_dominating_variants():
    (block,) = summaries(found())
    assert block.columns == ("latency (ms)", "memory (MiB)", "accuracy", "front", "of all 3")
    assert marks(block) == {
        "fast": ("yes", "yes"),
        "slow": ("no", "yes"),
        "exact": ("yes", "yes"),
        "odd": ("unsure", ""),
    }
    assert block.notes[1:] == ("slow dominated by fast", "odd perhaps dominated by fast")


def test_it_names_the_length_and_heads_of_the_costs_and_of_the_accuracy():
    (block,) = summaries(found())
    assert "costs at seq 512, heads 8, batch 1" in block.context
    assert block.context.endswith("accuracy on mqar:preset=tiny,length=64,pairs=8 at seq 64, heads 4")


def test_it_says_which_variants_are_not_compared_and_why():
    shorter = [
        times("flash", 2e-3, seq=4096),
        *scores("flash", 0.9),
        times("linear", 1e-3, seq=4096),
        *scores("linear", 0.3),
    ]
    shorter += [times("sparse", 1e-3, seq=4096, facts={"exact": False, "reach": 0.05})]
    shorter += scores("sparse", 0.95, facts={"exact": False, "reach": 1.0, "exact_here": True})
    (block,) = summaries(shorter)
    assert marks(block)["sparse"] == ("exact here",)
    assert block.notes[-1] == "not compared: sparse: exact attention at N = 64, which says nothing of N = 4096"


def test_it_fits_80_columns_and_is_rendered_in_markdown_and_latex_too():
    page = io.StringIO()
    Console(file=page, width=80).print(Tables(summaries(found())))
    assert max(map(cell_len, page.getvalue().splitlines())) <= 80
    assert "| slow | 2.00 | 0.500 | 0.400 | no | yes |" in markdown(summaries(found())).replace("**", "")
    assert r"of all 3 \\" in latex(summaries(found()))


def test_it_is_the_last_block_unless_metrics_are_asked_for_or_there_is_no_trade_off():
    complete = rows(*SCENARIOS["complete"]())
    assert blocks(complete) == [*tables(complete), *summaries(complete)]
    assert len(summaries(complete)) == 1
    assert blocks(complete, ["latency"]) == tables(complete, ["latency"])
    assert summaries(rows(*SCENARIOS["heads"]())) == []

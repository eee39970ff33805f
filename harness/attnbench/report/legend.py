"""What the marks beside numbers mean, told where they are used."""

from collections.abc import Iterable, Sequence

from attnbench.contracts.stats import CLEAN, NOISY
from attnbench.report.table import Block

_MEANING = {"~": f"noisy (spread above {CLEAN:.0%})", "!": f"unusable (spread above {NOISY:.0%})"}


def legend(blocks: Sequence[Block], *, best: str, replicates: Iterable[str]) -> str:
    """Explain what is in use: `best` how the best is shown, `replicates` over what the intervals shown were taken."""
    cells = [cell for block in blocks for cell in block.cells]
    within = " and group" if any(len(block.groups) > 1 for block in blocks) else ""
    parts = [f"{best} best of its column{within}"] if best and any(cell.best for cell in cells) else []
    parts += [f"{mark} {meaning}" for mark, meaning in _MEANING.items() if any(cell.mark == mark for cell in cells)]
    over = " or ".join(filter(None, dict.fromkeys(replicates)))
    return ", ".join([*parts, f"+- 95% interval over {over}"] if over else parts)

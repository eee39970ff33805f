"""Charts as files, drawn without a browser, and the script that draws them in one."""

from collections.abc import Callable, Collection
from functools import cache
from typing import Any

from attnbench.report.styles import on_paper

FORMATS = ("svg", "png", "pdf")
_RESOLUTION = 2.0  # points of a PNG for each pixel


def images(chart: dict[str, Any], formats: Collection[str]) -> dict[str, bytes]:
    """Render a Vega-Lite chart in each format. The same chart gives the same bytes."""
    import vl_convert

    svg = on_paper(vl_convert.vegalite_to_svg(chart, allowed_base_urls=[]))
    writers: dict[str, Callable[[], bytes]] = {
        "svg": svg.encode,
        "png": lambda: vl_convert.svg_to_png(svg, scale=_RESOLUTION),
        "pdf": lambda: vl_convert.svg_to_pdf(svg),
    }
    return {form: writers[form]() for form in formats}


@cache
def script() -> str:
    """Return the JavaScript module that draws charts on a page: Vega, Vega-Lite and Vega-Embed, as `vegaEmbed`."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")

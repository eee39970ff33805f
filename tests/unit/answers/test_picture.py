import io

import numpy as np
import pytest
from PIL import Image

from attnbench.answers.map.picture import FORMATS, Panel, picture

BRIGHT, DARK, GREY = (253, 231, 37), (68, 1, 84), (219, 219, 219)  # viridis' ends, and what is masked
MAGIC = {"png": b"\x89PNG", "svg": b"<svg", "pdf": b"%PDF"}


def drawn(*matrices, visible=None, title="linear", form="png", log=False):
    panels = [Panel(title=title, caption="error 1", matrix_TS=matrix) for matrix in matrices]
    seen = np.ones(matrices[0].shape, dtype=bool) if visible is None else visible
    return picture([panels], seen, caption="seq 4", form=form, log=log)


def share(data, colour):
    """Return the share of a picture's pixels that have a colour."""
    points = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=int)
    return float((np.abs(points - np.array(colour)).max(axis=-1) <= 2).mean())


@pytest.mark.parametrize("form", FORMATS)
def test_a_picture_has_the_requested_format(form):
    assert drawn(np.eye(4, dtype=np.float32), form=form).startswith(MAGIC[form])


def test_one_weight_among_millions_is_visible():
    matrix = np.zeros((2048, 2048), dtype=np.float32)
    without = share(drawn(matrix), BRIGHT)
    matrix[1001, 77] = 1
    assert share(drawn(matrix), BRIGHT) > without


def test_masked_positions_are_grey_unless_they_have_weight():
    visible = np.tril(np.ones((4, 4), dtype=bool))
    kept = np.tril(np.full((4, 4), 0.5, dtype=np.float32))
    leaking = np.full((4, 4), 0.5, dtype=np.float32)
    assert share(drawn(kept, visible=visible), GREY) > 0.1
    assert share(drawn(leaking, visible=visible), GREY) < 0.01


def test_all_panels_share_one_scale():
    large, small = (np.full((4, 4), size, dtype=np.float32) for size in (1.0, 0.0))
    both = drawn(large, small)
    assert share(both, BRIGHT) == pytest.approx(share(both, DARK), rel=0.2)


def test_on_a_logarithmic_scale_a_thousandth_differs_from_zero():
    matrix = np.zeros((8, 8), dtype=np.float32)
    matrix[:4] = 0.001
    matrix[7] = 1
    assert share(drawn(matrix, log=True), DARK) < share(drawn(matrix), DARK)


@pytest.mark.parametrize("title", ["$\\frac{", "a\nb", "\x1b[31mred", "<script>"])
def test_no_name_of_a_variant_is_markup(title):
    assert b"<script>" not in drawn(np.eye(4, dtype=np.float32), title=title, form="svg")


def test_more_panels_than_fit_in_a_row_are_wrapped():
    one, nine = (Image.open(io.BytesIO(drawn(*[np.eye(4, dtype=np.float32)] * count))) for count in (1, 9))
    assert nine.height > 2 * one.height
    assert nine.width < 9 * one.width / 3


def test_every_weight_of_a_small_matrix_is_a_square_of_one_colour():
    points = np.asarray(Image.open(io.BytesIO(drawn(np.eye(4, dtype=np.float32)))).convert("RGB"), dtype=int)
    bright = np.abs(points - np.array(BRIGHT)).max(axis=-1) <= 2
    rows = np.flatnonzero(bright.sum(axis=1) > 100)  # of the diagonal, not of the bar
    assert len(rows) == 512

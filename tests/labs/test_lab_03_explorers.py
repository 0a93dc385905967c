"""Lab 03's explorers and its picture say what the numbers say."""

import math

import pytest
import torch

from kernels.float8 import FORMATS
from labs.lab_03 import accumulator, schemes
from labs.lab_03.accumulation_explorer import accumulation_explorer
from labs.lab_03.number_line import (
    NAMED,
    VALUES,
    cast_value,
    finite_values,
    number_line_explorer,
    view_of,
)
from labs.lab_03.outlier_explorer import outlier_explorer
from labs.lab_03.pictures import idea_view
from tests.labs.every_view import every_view

# --- the number line ---------------------------------------------------------


def test_every_value_goes_to_the_nearest_number():
    for setting, view in every_view(number_line_explorer()):
        number, value = setting["number"], NAMED[setting["value"]]
        result = cast_value(number, value)
        assert f"= 0x{result.code:02X}" in view.sentence, setting
        assert view.table["chosen"].count("yes") == 1, setting
        chosen = view.table["chosen"].index("yes")
        assert view.table["byte"][chosen] == f"0x{result.code:02X}", setting
        if math.isnan(value):
            assert math.isnan(result.value)
            continue
        assert math.copysign(1, result.value) == math.copysign(1, value), setting
        largest = FORMATS[number].largest
        inside = max(-largest, min(largest, value))
        distances = [abs(v - inside) for v in finite_values(number)]
        assert abs(result.value - inside) == min(distances), setting
        assert result.tie == (distances.count(min(distances)) == 2), setting
        if result.tie:
            assert result.code % 2 == 0, setting


@pytest.mark.parametrize(
    ("number", "value", "words"),
    [
        ("E4M3", 1.5625, "halfway between 1.5 and 1.625 of E4M3; the tie goes to 1.5,"),
        ("E4M3", 1.5625, "byte 0 0111 100 = 0x3C, normal, + 2^(7 − 7) × (1 + 4/8)"),
        ("E4M3", 1.5625, "relative error 0.04."),
        ("E5M2", 1.375, "the tie goes to 1.5, whose last bit is 0; byte 0 01111 10"),
        ("E4M3", 1.375, "is a number of E4M3"),
        ("E4M3", 2.0**-10, "the tie goes to 0, whose last bit is 0: it is flushed"),
        ("E4M3", -(2.0**-10), "byte 1 0000 000 = 0x80, zero"),
        ("E4M3", 2.0**-9, "byte 0 0000 001 = 0x01, subnormal, + 2^(1 − 7) × 1/8"),
        ("E5M2", 2.0**-16, "0x01, subnormal, + 2^(1 − 15) × 1/4 = 1.52588e-05; no"),
        ("E4M3", 512.0, "beyond the ends of E4M3, ±448, and saturates to 448"),
        ("E4M3", 512.0, "0x7E, normal, + 2^(15 − 7) × (1 + 6/8) = 448"),
        ("E5M2", 512.0, "is a number of E5M2"),
        ("E5M2", -math.inf, "−∞ lies beyond the ends of E5M2, ±57344, and saturates"),
        ("E4M3", math.nan, "NaN stays NaN in E4M3; byte 0 1111 111 = 0x7F."),
    ],
)
def test_the_number_line_in_words(number, value, words):
    assert words in view_of(number, value).sentence


def test_the_live_slider_reaches_every_kind_of_value():
    assert len(NAMED) == len(VALUES)  # no two values have the same name
    panel = number_line_explorer().panel()
    slider, picture, words = panel.children[1:]
    for name, title in (
        ("NaN", "NaN in E4M3: NaN"),
        ("−∞", "−∞ in E4M3: saturates to −448"),
        ("0", "0 in E4M3: exact"),
        ("1.2", "1.2 in E4M3: to 1.25"),
    ):
        slider.value = name
        assert picture.layout.title.text == title
        assert f">{name} " in words.value


def test_the_slider_meets_everything_that_can_happen():
    for number in FORMATS:
        found = [cast_value(number, value) for value in VALUES]
        kinds = {result.kind for result in found}
        assert kinds == {"nan", "saturated", "exact", "rounded"}
        assert any(result.tie for result in found)
        assert any(result.flushed for result in found)


# --- the outlier -------------------------------------------------------------


def test_every_outlier():
    for setting, view in every_view(outlier_explorer()):
        assert "SQNR" in view.sentence, setting
        others, same, apart = view.table["SQNR (dB)"]
        if setting["fmt"] == "E4M3":
            assert apart == "none" or apart > 31, setting
        if setting["fmt"] == "E4M3" and setting["factor"] <= 1000:
            assert others > 31, setting
        if setting["factor"] == 1e6 and setting["fmt"] != "E5M2":
            assert same < 13, setting


def test_int8_suffers_where_e4m3_does_not():
    draw = outlier_explorer().draw
    for fmt, low, high in (("INT8", -1, 7), ("E4M3", 31, 33)):
        view = draw(factor=100.0, tile="the whole matrix", fmt=fmt)
        assert low < view.table["SQNR (dB)"][0] < high


def test_every_accumulation():
    for setting, view in every_view(accumulation_explorer()):
        assert "largest error of 128 sums" in view.sentence, setting
        never = view.table["never, %"]
        assert never == sorted(never)
        assert max(view.table["every 128 (V3), %"]) < 0.3
        if setting["kind"] == "uniform":  # about in proportion to the length
            assert 16 < never[-1] / never[1] < 64


def test_the_accumulator_by_hand():
    """1024 takes 11 bits: of 14, three are left for fractions."""
    ones = torch.zeros(1, 64, dtype=torch.float64)
    ones[0, 0], ones[0, 1] = 1024.0, 0.1875
    # 1024 lies below 2^11, so the last bit that is kept is 2^(11 - 14) = 1/8.
    assert accumulator.accumulate(ones).item() == 1024.125
    assert accumulator.accumulate(-ones).item() == -1024.125
    ones[0, 1], ones[0, 40] = 0.0, 0.1
    assert accumulator.accumulate(ones).item() == 1024.0
    # Emptied after 32, the register is free for the small one.
    kept = accumulator.accumulate(ones, promote=32).item()
    assert kept == pytest.approx(1024.1, abs=1e-4)


def test_small_whole_numbers_are_added_exactly():
    generator = torch.Generator().manual_seed(0)
    products = torch.randint(-3, 4, (16, 256), generator=generator).double()
    assert torch.equal(accumulator.accumulate(products), products.sum(1))


def test_schemes_by_their_known_sizes():
    """31.5 dB in E4M3 and 25.6 in E5M2 for numbers well in range (the lab says so)."""
    x = schemes.outlier_matrix(1.0)
    whole = tuple(x.shape)
    for fmt, ratio in (("E4M3", 31.5), ("E5M2", 25.6)):
        y = schemes.rounded(x, whole, fmt)
        assert schemes.sqnr(x, y) == pytest.approx(ratio, abs=0.3)
    codes = schemes.rounded(torch.tensor([[127.0, 1.4, -0.6, 0.4]]), (1, 4), "INT8")
    assert codes.tolist() == [[127.0, 1.0, -1.0, 0.0]]
    assert schemes.zeroed(torch.tensor([1.0, 0.4, 0.0]), torch.tensor([1, 0, 0])) == 0.5


def test_delayed_scaling_saturates_while_a_tensor_grows():
    online, delayed = (
        schemes.delayed_row(arm, 0, "ci") for arm in ("online", "delayed")
    )
    assert online["saturated"] == 0 and delayed["saturated"] > 0.01
    assert online["sqnr"] > 30 > 25 > delayed["sqnr"]


def test_the_picture_counts_tiles():
    assert "6 rows, each cut into 4 tiles" in idea_view().sentence

"""How many items it takes, and who sees what."""

import numpy as np
import pandas as pd
import pytest

from clvq_hf.judging.people.design import condition_of, group_of, items_needed
from clvq_hf.judging.people.scoring import _compare


class TestItemsNeeded:
    def test_it_is_near_the_textbook_for_many_annotators(self):
        # A z-test of two proportions needs (1.95996·√(2·0.66·0.34) + 0.84162·√(0.78·0.22 + 0.54·0.46))² / 0.24² = 60,
        # and 152 for 0.25 against 0.40 (Fleiss, Levin & Paik 2003, before the continuity correction). Annotators whose
        # variance is estimated cost some more, the fewer they are the more.
        assert 60 <= items_needed(0.78, 0.54, num_groups=40) <= 68
        assert 152 <= items_needed(0.25, 0.40, num_groups=40) <= 168
        needed = [items_needed(0.78, 0.54, num_groups=number) for number in (2, 4, 12)]
        assert needed == sorted(needed, reverse=True) and needed[0] > 100

    def test_neither_order_nor_what_counts_as_right_matters(self):
        needed = items_needed(0.78, 0.54)
        assert items_needed(0.54, 0.78) == pytest.approx(needed, rel=0.04)
        assert items_needed(0.22, 0.46) == pytest.approx(needed, rel=0.04)

    def test_so_many_items_do_give_verdicts_of_studies(self):
        # Power 0.8 in 300 studies: a standard error of 2.3 points.
        generator = np.random.default_rng(0)
        n = items_needed(0.8, 0.5)
        won = 0
        for _ in range(300):
            sides = [
                pd.DataFrame(
                    {
                        "method": name,
                        "annotator": (np.arange(n) + shift) % 4,
                        "text_id": np.arange(n),
                        "is_right": generator.random(n) < accuracy,
                    }
                )
                for name, shift, accuracy in (("good", 0, 0.8), ("bad", 1, 0.5))
            ]
            compared = _compare(*sides)
            won += compared["p_value"] <= 0.05 and compared["difference"] > 0
        assert won / 300 == pytest.approx(0.8, abs=0.07)

    def test_a_group_alone_compares_nothing(self):
        with pytest.raises(ValueError, match="two groups of annotators or more, got num_groups=1"):
            items_needed(0.8, 0.5, num_groups=1)

    def test_correction_and_the_least_number_of_texts(self):
        assert items_needed(0.78, 0.54, num_comparisons=5) == items_needed(0.78, 0.54, alpha=0.01)
        assert items_needed(0.99, 0.01) == 20

    def test_more_power_more_items(self):
        assert items_needed(0.78, 0.54, power=0.9) > items_needed(0.78, 0.54) < items_needed(0.78, 0.54, alpha=0.01)

    @pytest.mark.parametrize("figures", [(0.5, 0.5), (1.0, 0.5), (0.5, 0.0), (0.7, 0.5, 1.0), (0.7, 0.5, 0.8, 0)])
    def test_figures_that_mean_nothing(self, figures):
        with pytest.raises(ValueError):
            items_needed(*figures)


def test_groups_fill_up_one_after_the_other_and_go_round():
    assert [group_of(annotator, num_groups=3, raters=2) for annotator in range(1, 9)] == [0, 0, 1, 1, 2, 2, 0, 0]


def test_conditions_form_a_latin_square():
    square = np.array([[condition_of(place, group, 4) for place in range(4)] for group in range(4)])
    for line in (*square, *square.T):
        assert sorted(line) == [0, 1, 2, 3]

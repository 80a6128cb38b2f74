"""How many items it takes, and who sees what."""

import numpy as np
import pytest
from scipy.stats import norm

from clvq_hf.judging.people.design import condition_of, group_of, items_needed


class TestItemsNeeded:
    def test_the_papers_figures(self):
        # By hand: (1.95996·√(2·0.66·0.34) + 0.84162·√(0.78·0.22 + 0.54·0.46))² / 0.24² = 59.96.
        assert items_needed(0.78, 0.54) == 60

    def test_a_textbook_figure(self):
        # Fleiss, Levin & Paik (2003): 0.25 against 0.40 at 80 % power needs 152, before the continuity correction.
        assert items_needed(0.25, 0.40) == 152

    def test_neither_order_nor_what_counts_as_right_matters(self):
        assert items_needed(0.54, 0.78) == items_needed(0.22, 0.46) == 60

    def test_so_many_items_do_give_that_power(self):
        generator = np.random.default_rng(0)
        n = items_needed(0.8, 0.5)
        first, second = generator.binomial(n, 0.8, 20000) / n, generator.binomial(n, 0.5, 20000) / n
        mean = (first + second) / 2
        z = np.abs(first - second) / np.sqrt(2 * mean * (1 - mean) / n)
        assert (z > norm.ppf(0.975)).mean() == pytest.approx(0.8, abs=0.03)

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

"""Agreement by hand: every figure here was computed on paper, or follows from how it is made."""

import numpy as np
import pytest

from clvq_hf.judging.agreement import (
    bradley_terry,
    chance_agreement,
    fleiss_kappa,
    kendall_w,
    krippendorff_alpha,
    pairwise_correlation,
)

nan = float("nan")


class TestFleiss:
    def test_by_hand(self):
        # Three raters, two items: (3, 0) agrees wholly, (1, 2) in one pair of three. P̄ = 2/3.
        # Categories have 4/6 and 2/6: P_e = 20/36. κ = (24/36 - 20/36) / (16/36) = 1/4.
        assert fleiss_kappa(np.array([[3, 0], [1, 2]])) == pytest.approx(0.25)

    def test_fleiss_own_example(self):
        # Fleiss (1971), table 1 as it is quoted everywhere: κ = 0.210.
        counts = [
            [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
            [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
        ]  # fmt: skip
        assert fleiss_kappa(np.array(counts)) == pytest.approx(0.210, abs=5e-4)

    def test_perfect_agreement_and_one_category(self):
        assert fleiss_kappa(np.array([[2, 0], [0, 2]])) == 1
        assert np.isnan(fleiss_kappa(np.array([[2, 0], [2, 0]])))

    def test_total_disagreement_of_two(self):
        # P̄ = 0, P_e = 1/2.
        assert fleiss_kappa(np.array([[1, 1], [1, 1]])) == -1

    @pytest.mark.parametrize("counts", [[[2, 0], [1, 0]], [[1, 0], [0, 1]], np.zeros((0, 2))])
    def test_uneven_single_or_no_raters(self, counts):
        with pytest.raises(ValueError, match="same number of raters"):
            fleiss_kappa(np.array(counts))


class TestKrippendorff:
    # Two raters, four items. Pairs: (1,1) (1,2) (3,3) (3,3), so the values 1, 2, 3 have n = 3, 1, 4 of 8.
    RATINGS = np.array([[1, 1, 3, 3], [1, 2, 3, 3]])

    def test_nominal(self):
        # α = 1 - 7 · (2 unequal ordered values) / (8² - 3² - 1² - 4²) = 1 - 14/38.
        assert krippendorff_alpha(self.RATINGS, "nominal") == pytest.approx(1 - 14 / 38)

    def test_interval(self):
        # Σ o δ² = 2 · 1; Σ n n δ² = 2 · (3·1·1 + 3·4·4 + 1·4·1) = 110. α = 1 - 7 · 2 / 110.
        assert krippendorff_alpha(self.RATINGS, "interval") == pytest.approx(1 - 14 / 110)

    def test_ordinal(self):
        # δ = ranks between: (1,2): (3+1)/2 = 2; (2,3): (1+4)/2 = 2.5; (1,3): 3/2 + 1 + 4/2 = 4.5.
        # Σ o δ² = 2 · 4 = 8; Σ n n δ² = 2 · (3·4 + 4·6.25 + 12·20.25) = 560. α = 1 - 7 · 8 / 560 = 0.9.
        assert krippendorff_alpha(self.RATINGS, "ordinal") == pytest.approx(0.9)

    def test_what_is_rated_once_does_not_count(self):
        more = np.array([[1, 1, 3, 3, 2, nan], [1, 2, 3, 3, nan, nan]])
        assert krippendorff_alpha(more, "ordinal") == pytest.approx(0.9)

    def test_nothing_to_tell(self):
        assert np.isnan(krippendorff_alpha(np.array([[1, nan], [nan, 2]]), "nominal"))
        assert np.isnan(krippendorff_alpha(np.array([[2, 2], [2, 2]]), "ordinal"))
        assert np.isnan(krippendorff_alpha(np.full((2, 3), nan), "ordinal"))

    def test_perfect(self):
        assert krippendorff_alpha(np.array([[1, 2, 3], [1, 2, 3]]), "ordinal") == pytest.approx(1)


class TestKendall:
    def test_without_ties(self):
        # Ranks (1,2,3,4), (2,1,4,3), (1,3,2,4) sum to 4, 6, 9, 11: mean 7.5.
        # S = 12.25 + 2.25 + 2.25 + 12.25 = 29. W = 12 · 29 / (9 · 60) = 29/45.
        ranks = np.array([[1, 2, 3, 4], [2, 1, 4, 3], [1, 3, 2, 4]])
        assert kendall_w(ranks) == pytest.approx(29 / 45)

    def test_with_ties(self):
        # Ranks (1, 2.5, 2.5), (1, 2, 3): sums 2, 4.5, 5.5, mean 4; S = 4 + .25 + 2.25 = 6.5.
        # One tie of two: T = 6. W = 12 · 6.5 / (4 · 24 - 2 · 6) = 78/84.
        assert kendall_w(np.array([[1, 2, 2], [1, 2, 3]])) == pytest.approx(78 / 84)

    def test_scores_are_ranked(self):
        assert kendall_w(np.array([[0.1, 0.5, 9], [1, 20, 21]])) == pytest.approx(1)
        assert kendall_w(np.array([[1, 2, 3], [3, 2, 1]])) == pytest.approx(0)

    def test_all_tied_and_too_few(self):
        assert np.isnan(kendall_w(np.ones((2, 3))))
        for shape in ((1, 3), (2, 1)):
            with pytest.raises(ValueError, match="two"):
                kendall_w(np.ones(shape))


class TestCorrelation:
    def test_mean_over_pairs(self):
        # Between the first two 1 (both kinds), with the third -1: (1 - 1 - 1) / 3.
        ratings = np.array([[1, 2, 3], [2, 4, 6], [3, 2, 1]])
        assert pairwise_correlation(ratings, "pearson") == pytest.approx(-1 / 3)
        assert pairwise_correlation(ratings, "spearman") == pytest.approx(-1 / 3)

    def test_ranks_alone_matter_to_spearman(self):
        ratings = np.array([[1, 2, 3], [1, 2, 30]])
        assert pairwise_correlation(ratings, "spearman") == pytest.approx(1)
        # Deviations (-1, 0, 1) and (-10, -9, 19): 29 / √(2 · 542).
        assert pairwise_correlation(ratings, "pearson") == pytest.approx(29 / np.sqrt(2 * 542))

    def test_pairs_that_tell_nothing_are_left_out(self):
        constant = np.array([[1, 2, 3], [2, 2, 2]])
        few = np.array([[1, 2, nan, nan], [1, 2, 3, 4]])
        assert np.isnan(pairwise_correlation(constant, "pearson")) and np.isnan(pairwise_correlation(few, "pearson"))
        assert pairwise_correlation(np.array([[1, 2, 3], [2, 2, 2], [1, 2, 3]]), "pearson") == pytest.approx(1)


class TestBradleyTerry:
    def test_known_strengths(self):
        true = np.array([1.0, 0.2, -0.4, -0.8])
        # As many wins as the model expects of 10,000 comparisons a pair.
        wins = 10_000 / (1 + np.exp(true[None, :] - true[:, None]))
        np.testing.assert_allclose(bradley_terry(wins), true, atol=5e-3)

    def test_two_by_hand(self):
        # Three of four: log-odds log 3, half to each side; the prior takes a little.
        scores = bradley_terry(np.array([[0, 3000], [1000, 0]]))
        np.testing.assert_allclose(scores, [np.log(3) / 2, -np.log(3) / 2], atol=1e-3)

    def test_one_that_never_lost_is_finite_and_first(self):
        scores = bradley_terry(np.array([[0, 20, 20], [0, 0, 10], [0, 10, 0]]))
        assert np.isfinite(scores).all() and scores.argmax() == 0
        assert scores[1] == pytest.approx(scores[2], abs=1e-3)

    def test_many_at_once(self):
        generator = np.random.default_rng(0)
        wins = generator.integers(0, 50, (2, 3, 5, 5))
        np.testing.assert_allclose(bradley_terry(wins)[1, 2], bradley_terry(wins[1, 2]), atol=1e-8)

    def test_the_score_of_the_likelihood_is_zero_there(self):
        # At the maximum, wins minus expected wins pull as hard as the prior: s / 9; centring moves them all alike.
        wins = np.array([[0, 9, 4], [1, 0, 7], [6, 3, 0]])
        scores = bradley_terry(wins)
        expected = (wins + wins.T) / (1 + np.exp(scores[None, :] - scores[:, None]))
        np.testing.assert_allclose((wins - expected).sum(1), scores / 9, atol=1e-7)

    def test_nothing_but_ties(self):
        np.testing.assert_allclose(bradley_terry(np.full((3, 3), 5.0)), 0, atol=1e-4)


class TestChance:
    @pytest.mark.parametrize(("judges", "methods"), [(2, 3), (3, 4), (4, 2), (5, 3)])
    def test_simulation(self, judges, methods):
        generator = np.random.default_rng(0)
        ranks = generator.random((4000, judges, methods)).argsort(-1)
        firsts = ranks.argmin(-1)
        most = np.array([np.bincount(row).max() for row in firsts])
        chance = chance_agreement(judges, methods)
        assert (most == judges).mean() == pytest.approx(chance["unanimous_first"], abs=0.03)
        assert (most > judges / 2).mean() == pytest.approx(chance["majority_first"], abs=0.03)
        assert np.mean([kendall_w(item) for item in ranks[:400]]) == pytest.approx(chance["kendall_w"], abs=0.04)

    def test_w_by_chance_is_the_same_with_ties(self):
        # What is said of judges who tie: expectations of both S and its greatest value shrink alike.
        generator = np.random.default_rng(1)
        found = [kendall_w(generator.integers(0, 3, (3, 6))) for _ in range(500)]
        assert np.mean(found) == pytest.approx(1 / 3, abs=0.04)

    def test_alpha_by_chance(self):
        ratings = np.random.default_rng(2).integers(1, 4, (3, 5000))
        assert krippendorff_alpha(ratings, "ordinal") == pytest.approx(
            chance_agreement(3, 3)["krippendorff_alpha"], abs=0.02
        )

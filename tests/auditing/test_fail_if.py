"""Conditions on a retest by hand."""

import pytest

from clvq_hf.auditing import Retest
from clvq_hf.auditing.fail_if import FailIf
from clvq_hf.auditing.retest_figures import Figure


@pytest.fixture
def retest():
    figures = [
        Figure("all texts", "edit", "accuracy", 100, 0.9, 0.88, -0.02),
        Figure("source=a, b", "edit", "accuracy", 50, 0.9, 0.95, 0.05),
        Figure("all texts", "words deleted", "accuracy", 100, 0.9, 0.5, -0.4),
    ]
    return Retest({}, figures)


@pytest.mark.parametrize(
    ("text", "fails"),
    [
        ("accuracy<-0.01", True),
        ("accuracy < -.03", False),
        ("accuracy<=-0.02", True),
        ("accuracy>-1", True),
        ("accuracy[all texts]<0", True),
        (" accuracy [source=a, b] < 0 ", False),
        ("accuracy[source=a, b]>=5e-2", True),
    ],
)
def test_by_hand(retest, text, fails):
    told = FailIf.parse(text).failure(retest)
    assert (told is not None) == fails
    if fails:
        assert "accuracy of" in told and "changed by" in told


@pytest.mark.parametrize(
    "text", ["", "accuracy", "accuracy<", "accuracy<ten", "accuracy<nan", "accuracy==1", "<1", "a<b<1"]
)
def test_no_condition(text):
    with pytest.raises(ValueError, match="is no condition"):
        FailIf.parse(text)


def test_a_folded_model_must_keep_it_too(retest):
    retest.figures.append(Figure("all texts", "folded model", "accuracy", 100, 0.9, 0.8, -0.1))
    told = FailIf.parse("accuracy<-0.05").failure(retest)
    assert "by -0.1000 (folded model)" in told and "(edit)" not in told


def test_unknown_names(retest):
    with pytest.raises(ValueError, match=r"no figure 'acuracy'.*accuracy, margin"):
        FailIf.parse("acuracy<0")
    FailIf.parse("accuracy[source=a, b]<0").check_group(["all texts", "source=a, b"])
    with pytest.raises(ValueError, match="no group 'source=c' of texts; there are 'all texts', 'source=a, b'"):
        FailIf.parse("accuracy[source=c]<0").check_group(["all texts", "source=a, b"])
    with pytest.raises(ValueError, match=r"measured for all texts, source=a, b; not for 'source=c'"):
        FailIf.parse("accuracy[source=c]<0").failure(retest)
    with pytest.raises(ValueError, match="no texts, because"):
        FailIf.parse("brier<0").failure(retest)

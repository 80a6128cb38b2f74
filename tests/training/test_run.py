import pytest

from clvq_hf.training.run import choose_layers


@pytest.mark.parametrize(
    ("num_blocks", "given", "expected"),
    [
        (6, (None, None), (3, 6)),
        (1, (None, None), (0, 1)),
        (12, (8, None), (8, 12)),
        (12, (None, 4), (4, 4)),
        (12, (2, 5), (2, 5)),
    ],
)
def test_the_middle_layer_and_the_last_are_the_default(num_blocks, given, expected):
    assert choose_layers(num_blocks, *given) == expected

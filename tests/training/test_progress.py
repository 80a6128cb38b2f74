"""The bar of a training: it has a name, ends full, and is all that is printed."""

import re

import pytest

from clvq_hf.training.finetuning import fine_tune


@pytest.mark.slow
@pytest.mark.parametrize("disabled", [False, True])
def test_one_bar_and_no_lines_of_figures(host, tokenizer, texts, capfd, disabled):
    few = texts.select(range(8))
    arguments = {"per_device_train_batch_size": 4, "use_cpu": True, "logging_steps": 1}
    fine_tune(host, tokenizer, few, num_train_epochs=1, disable_tqdm=disabled, **arguments)
    printed = capfd.readouterr()
    assert printed.out == ""
    last = re.split(r"[\r\n]+", printed.err.strip())[-1]
    if disabled:
        assert "Fine-tuning" not in printed.err
    else:
        assert last.startswith("Fine-tuning the host: 100%") and "2/2" in last and re.search(r"loss=\d\.\d{3}", last)

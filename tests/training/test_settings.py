import pytest

from clvq_hf import CLVQTrainingArguments
from clvq_hf.training.settings import check_arguments, check_settings, config_fields, read_settings, training_fields

KNOWN = config_fields() | training_fields()


def test_values_have_the_types_of_their_fields(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("learning-rate: 1e-3\ndropout: 0\n")
    given = [
        "dropout=1e-1",
        "revive_after=none",
        "report_to=none",
        "optim=sgd",
        "bf16=true",
        "eval_strategy=no",
        "max_length=64",
    ]
    assert check_settings(read_settings(given, file), KNOWN) == {
        "learning_rate": 1e-3,
        "dropout": 0.1,
        "revive_after": None,
        "report_to": "none",
        "optim": "sgd",
        "bf16": True,
        "eval_strategy": "no",
        "max_length": 64,
    }


@pytest.mark.parametrize("name", ["hidden_size", "is_causal", "training", "output_dir", "text_column", "fingerprint"])
def test_what_the_command_sets_itself_is_no_setting(name):
    with pytest.raises(ValueError, match=f"no setting '{name}'"):
        check_settings({name: 1}, KNOWN)


@pytest.mark.parametrize("content", ["- a list", "only text"])
def test_a_file_without_names_is_refused(tmp_path, content):
    (tmp_path / "settings.yaml").write_text(content)
    with pytest.raises(ValueError, match="must contain lines like"):
        read_settings([], tmp_path / "settings.yaml")


def test_what_only_another_machine_can_do_is_not_refused_here():
    """A grid that ran on a GPU is reported on elsewhere."""
    check_arguments(CLVQTrainingArguments, {"bf16": True, "tf32": True, "learning_rate": 1e-3}, "the method x")
    with pytest.raises(ValueError, match="learning_rate of the method x"):
        check_arguments(CLVQTrainingArguments, {"learning_rate": "fast"}, "the method x")

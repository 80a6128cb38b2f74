"""`import clvq_hf` is light, and AutoConfig and AutoModel know our types all the same."""

import subprocess
import sys

import pytest

from clvq_hf.auto_types import TYPES
from clvq_hf.models import ClassOnlyModel, ClusterModel, CLVQModel, SparseDictionary


def run(code, *args):
    result = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.strip()


def test_all_types_of_the_package_are_listed():
    configs = [each.config_class for each in (CLVQModel, ClusterModel, SparseDictionary, ClassOnlyModel)]
    assert {config.model_type: config.__name__ for config in configs} == TYPES


def test_importing_the_package_loads_no_library():
    heavy = ("torch", "transformers", "datasets", "numpy")
    assert run(f"import sys, clvq_hf; print([name for name in {heavy} if name in sys.modules])") == "[]"


@pytest.mark.parametrize(
    "first",
    [
        "import clvq_hf; from transformers import AutoConfig, AutoModel",
        "from transformers import AutoModel; import clvq_hf; from transformers import AutoConfig",
        "import clvq_hf; from transformers import AutoTokenizer; from transformers import AutoConfig, AutoModel",
    ],
)
def test_auto_classes_load_a_saved_model_in_any_order_of_imports(tmp_path, first):
    from clvq_hf import CLVQConfig

    CLVQModel(CLVQConfig(hidden_size=16, codebook_size=4, num_decoder_layers=1)).save_pretrained(tmp_path)
    code = (
        f"import sys; {first};"
        "assert 'clvq_hf.models' not in sys.modules;"
        "config = AutoConfig.from_pretrained(sys.argv[1]); model = AutoModel.from_pretrained(sys.argv[1]);"
        "print(type(config).__name__, type(model).__name__, type(AutoConfig.for_model('concept_clusters')).__name__)"
    )
    assert run(code, str(tmp_path)) == "CLVQConfig CLVQModel ClusterConfig"


def test_stand_ins_can_be_copied_and_do_not_load_for_a_look():
    code = (
        "import clvq_hf, copy, pickle, sys; from transformers.models.auto.configuration_auto import CONFIG_MAPPING;"
        "[getattr(each, '__name__') for each in CONFIG_MAPPING._extra_content.values()];"
        "assert 'clvq_hf.models' not in sys.modules;"
        "copies = [copy.deepcopy(CONFIG_MAPPING), pickle.loads(pickle.dumps(CONFIG_MAPPING))];"
        "print([each['clvq'].__name__ for each in copies])"
    )
    assert run(code) == "['CLVQConfig', 'CLVQConfig']"


def test_somebody_looks_for_the_module_first():
    code = (
        "import clvq_hf, importlib.util, sys; import transformers.models.auto;"
        "found = importlib.util.find_spec('transformers.models.auto.configuration_auto'); assert found is not None;"
        "from transformers import AutoConfig; print(type(AutoConfig.for_model('clvq')).__name__);"
        "print([each for each in sys.meta_path if 'clvq' in type(each).__module__])"
    )
    assert run(code) == "CLVQConfig\n[]"


def test_rooms_are_attributes():
    rooms = ("data", "evaluation", "hosts", "hub", "models", "tables", "training")
    assert run(f"import clvq_hf; print(all(getattr(clvq_hf, name).__name__ == 'clvq_hf.' + name for name in {rooms}))")


def test_starting_loads_nothing_that_is_slow():
    code = (
        "import sys; from transformers import AutoConfig; import clvq_hf; AutoConfig.for_model('clvq');"
        "import clvq_hf.metrics; from clvq_hf.cli import app;"
        "slow = ('clvq_hf.training.trainer', 'datasets', 'evaluate', 'gradio', 'matplotlib', 'pandas', 'sklearn');"
        "print([name for name in slow if name in sys.modules])"
    )
    assert run(code) == "[]"

"""Which methods are known, and that none replaces another in silence."""

import pytest
from transformers import AutoConfig

from clvq_hf import ClusterModel, CLVQModel, SparseDictionary
from clvq_hf.models.registry import method_class, method_classes, register_method


def test_the_methods_of_the_package_are_known():
    assert method_classes()[:3] == [CLVQModel, ClusterModel, SparseDictionary]
    assert method_class("clvq") is CLVQModel and method_class("bert") is None and method_class(["clvq"]) is None
    assert AutoConfig.for_model("sparse_dictionary", hidden_size=8).codebook_size == 4096


def test_registering_again_changes_nothing():
    assert register_method(CLVQModel) is CLVQModel and method_class("clvq") is CLVQModel


def test_another_class_does_not_take_the_place_of_one_that_is_known():
    # Also if it is called the same.
    stranger = type("CLVQModel", (CLVQModel,), {"__module__": "somewhere", "__qualname__": "CLVQModel"})
    with pytest.raises(ValueError, match="belongs to CLVQModel already"):
        register_method(stranger)
    assert method_class("clvq") is CLVQModel


def test_a_config_without_a_type_is_refused():
    nameless = type("Nameless", (), {"config_class": type("NamelessConfig", (), {"model_type": ""})})
    with pytest.raises(ValueError, match="needs a config_class with a model_type"):
        register_method(nameless)

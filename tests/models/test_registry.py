"""Which methods are known, and that none replaces another in silence."""

import sys
from importlib.metadata import EntryPoint, EntryPoints

import pytest
from transformers import AutoConfig

from clvq_hf import ClusterModel, CLVQModel, SparseDictionary
from clvq_hf.models import registry
from clvq_hf.models.registry import import_methods, method_class, method_classes, register_method

PLUGIN = """
from clvq_hf import ClusterModel, ClusterConfig{register}

class {name}Config(ClusterConfig):
    model_type = "{name}"

{decorator}
class {name}(ClusterModel):
    config_class = {name}Config
"""


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


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Makes this process believe that packages with these entry points, given as `name: value`, were installed."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    modules = set(sys.modules)

    def install(**points: str) -> None:
        found = EntryPoints(EntryPoint(name, value, registry.ENTRY_POINTS) for name, value in points.items())
        monkeypatch.setattr(registry, "entry_points", lambda group: found.select(group=group))
        monkeypatch.setattr(registry, "_has_looked", False)

    yield install
    for name in set(sys.modules) - modules:
        if name.startswith("plugin_"):
            del sys.modules[name]


def write(folder, module: str, name: str, registers: bool) -> None:
    register, decorator = (", register_method", "@register_method") if registers else ("", "")
    (folder / f"{module}.py").write_text(PLUGIN.format(name=name, register=register, decorator=decorator))


class TestMethodsFromOutside:
    def test_those_of_installed_packages_are_found(self, install, tmp_path):
        write(tmp_path, "plugin_a", "outside_a", registers=True)
        write(tmp_path, "plugin_b", "outside_b", registers=False)
        install(a="plugin_a", b="plugin_b:outside_b")
        assert method_class("clvq") is CLVQModel and "plugin_a" not in sys.modules, "not before one is needed"
        assert method_class("outside_b").__name__ == "outside_b"
        assert [each.__name__ for each in method_classes()[-2:]] == ["outside_a", "outside_b"]
        assert AutoConfig.for_model("outside_a").codebook_size == 400

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (None, "ModuleNotFoundError: No module named 'plugin_broken'"),
            ("import nothing_like_this", "ModuleNotFoundError: No module named 'nothing_like_this'"),
            ("raise RuntimeError('no GPU')", "RuntimeError: no GPU"),
            ("raise SystemExit(3)", "SystemExit: 3"),
            ("def method(:", "SyntaxError"),
            (
                PLUGIN.format(name="clvq", register=", register_method", decorator="@register_method"),
                "belongs to CLVQ",
            ),
        ],
        ids=["missing", "dependency", "error", "exit", "syntax", "taken"],
    )
    def test_a_broken_one_is_reported_and_harms_no_other(self, content, reason, install, tmp_path, caplog):
        if content is not None:
            (tmp_path / "plugin_broken.py").write_text(content)
        write(tmp_path, "plugin_c", "outside_c", registers=True)
        install(broken="plugin_broken", c="plugin_c")
        assert method_class("outside_c") is not None and method_class("clvq") is CLVQModel
        assert method_class("unknown") is None
        [warning] = [r.getMessage() for r in caplog.records if r.name == registry.logger.name]
        assert "The method 'broken' of an installed package (plugin_broken) cannot be used" in warning
        assert reason in warning

    def test_a_config_names_no_module(self, install, tmp_path):
        write(tmp_path, "plugin_d", "outside_d", registers=True)
        install()
        for named in ("outside_d", "plugin_d", "plugin_d:outside_d"):
            assert method_class(named) is None
        assert "plugin_d" not in sys.modules

    def test_modules_that_cannot_be_imported_are_refused(self, install, tmp_path):
        install()
        with pytest.raises(ValueError, match="--import: the module 'plugin_e' cannot be imported: No module"):
            import_methods(["plugin_e"], "--import")

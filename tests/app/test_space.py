"""The folder of a Space: what is in it, what is refused, and that its `app.py` runs."""

import ast
import runpy
from importlib import metadata

import pytest
from helpers.loopback_hub import card_data
from packaging.requirements import Requirement
from typer.testing import CliRunner

from clvq_hf import __version__
from clvq_hf.app import export_space
from clvq_hf.app.rendering import header_html
from clvq_hf.cli import app


@pytest.fixture
def pushed(shared_model, hub_host, tokenizer, texts):
    """A model on the Hub whose host is there too, with a table: "org/concepts"."""
    shared_model.push_to_hub("org/concepts", concepts=shared_model.concept_table(hub_host, tokenizer, texts))
    return shared_model


def invoke(*arguments):
    result = CliRunner().invoke(app, ["app", *map(str, arguments)], env={"COLUMNS": "200"})
    return result.exit_code, " ".join(result.output.split())


class TestExport:
    @pytest.mark.slow
    def test_three_files_that_a_space_needs(self, pushed, tmp_path):
        folder = tmp_path / "new" / "space"
        code, output = invoke("org/concepts", "--export-space", folder)
        assert code == 0, output
        assert "hf upload org/concepts-app" in output and "no concept table" not in output
        assert {file.name for file in folder.iterdir()} == {"README.md", "app.py", "requirements.txt"}

        requirements = [Requirement(line) for line in (folder / "requirements.txt").read_text().splitlines()]
        ours = requirements[0]
        assert (ours.name, ours.extras, str(ours.specifier)) == ("clvq-hf", {"app"}, f">={__version__}")
        for requirement in requirements:
            assert requirement.specifier.contains(metadata.version(requirement.name))

        card = card_data((folder / "README.md").read_text())
        assert (card["sdk"], card["app_file"]) == ("gradio", "app.py")
        assert card["sdk_version"] == metadata.version("gradio")
        assert card["models"] == ["org/concepts", "org/host"]

        program = ast.parse((folder / "app.py").read_text())
        assert "Explorer.from_pretrained('org/concepts')" in ast.unparse(program)
        assert str(tmp_path) not in "".join(file.read_text() for file in folder.iterdir())

        # Again into the same folder, with another host.
        (folder / ".git").mkdir()
        (folder / "requirements.txt").write_text("stale")
        assert export_space(folder, "org/concepts", "org/other-host")
        assert "stale" not in (folder / "requirements.txt").read_text()
        assert 'from_pretrained("org/concepts", host="org/other-host")' in (folder / "app.py").read_text()
        assert card_data((folder / "README.md").read_text())["models"] == ["org/concepts", "org/other-host"]

    def test_a_model_without_table_is_told(self, shared_model, tmp_path):
        shared_model.push_to_hub("org/bare")
        code, output = invoke("org/bare", "--export-space", tmp_path / "space")
        assert code == 0 and "org/bare has no concept table" in output


class TestRefused:
    def test_a_folder_of_this_machine(self, tmp_path):
        (tmp_path / "model").mkdir()
        code, output = invoke(tmp_path / "model", "--export-space", tmp_path / "space")
        assert code == 1 and "Push it first with" in output and "clvq-hf push" in output
        assert not (tmp_path / "space").exists()

    def test_a_host_of_this_machine(self, host, tokenizer, make_model, fit, texts, hub, tmp_path):
        host.save_pretrained(tmp_path / "host")
        model = fit(make_model(host_name_or_path=str(tmp_path / "host")), host, tokenizer, texts)
        model.push_to_hub("org/local-host")
        code, output = invoke("org/local-host", "--export-space", tmp_path / "space")
        assert code == 1 and "Push the host to the Hub, and name it with --host" in output
        assert not (tmp_path / "space").exists()
        assert not export_space(tmp_path / "space", "org/local-host", "org/host")

    @pytest.mark.parametrize("file", ["notes.txt", "app.py"])
    def test_a_folder_with_something_else(self, tmp_path, file):
        (tmp_path / "space").mkdir()
        (tmp_path / "space" / file).write_text("mine")
        with pytest.raises(ValueError, match="holds something else"):
            export_space(tmp_path / "space", "org/concepts")
        assert [entry.name for entry in (tmp_path / "space").iterdir()] == [file]
        assert (tmp_path / "space" / file).read_text() == "mine"

    def test_what_is_no_concept_model(self, hub_host, tmp_path):
        code, output = invoke("org/host", "--export-space", tmp_path / "space")
        assert code == 1 and "Is it the host" in output
        code, output = invoke("org/nothing", "--export-space", tmp_path / "space")
        assert code == 1 and "org/nothing" in output

    def test_a_table_of_this_machine(self, tmp_path):
        code, output = invoke("org/concepts", "--table", tmp_path, "--export-space", tmp_path / "space")
        assert code == 1 and "clvq-hf push" in output


@pytest.mark.slow
def test_its_app_runs(pushed, tmp_path, monkeypatch):
    export_space(tmp_path / "space", "org/concepts")
    explorers = []
    monkeypatch.setattr("clvq_hf.app.launch_app", explorers.append)
    runpy.run_path(str(tmp_path / "space" / "app.py"))
    page = header_html(explorers[0])
    assert "Concepts of org/host" in page and "no concept table" not in page

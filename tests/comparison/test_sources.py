"""What a grid reads from elsewhere is known by content: what is edited in place is another source."""

import json

import pytest
import torch
from helpers.tiny_grid import make_reviews

from clvq_hf.comparison.cell import cell_folder, open_cell
from clvq_hf.comparison.grid import digest, load_grid
from clvq_hf.comparison.prepared_hosts import host_folder, open_host
from clvq_hf.comparison.sources import Sources

GRID = """
hosts:
  tiny: {{model: {folder}/host, lower_layer: 1, upper_layer: 3}}
datasets:
  reviews: {{texts: {folder}/reviews}}
methods:
  - {{method: kmeans, config: {{codebook_size: 12}}}}
  - {{name: mine, method: saved, config: {{path: {folder}/model}}}}
"""


@pytest.fixture
def folder(tmp_path, host, tokenizer, make_model):
    """A grid of a host, texts and a concept model in folders, and a prepared host and two cells of it."""
    host.save_pretrained(tmp_path / "host")
    tokenizer.save_pretrained(tmp_path / "host")
    make_model().save_pretrained(tmp_path / "model")
    make_reviews(tmp_path / "reviews")
    (tmp_path / "grid.yaml").write_text(GRID.format(folder=tmp_path))
    grid = load_grid(tmp_path / "grid.yaml")
    place, sources = ("tiny", "reviews", "fine-tuned"), Sources(grid)
    settings = {"digest": digest(grid.host_settings(*place))}
    content = {"name": "host", "weights": "1" * 16}
    prepared = {**settings, "identity": sources.of_host(*place[:2]), "content": content}
    files = {host_folder(tmp_path / "out", *place) / "host.json": prepared}
    for cell in grid.cells():
        result = {
            "digest": digest(grid.cell_settings(cell)),
            "identity": sources.of_cell(cell) | {"prepared": content},
        }
        files[cell_folder(tmp_path / "out", cell) / "cell.json"] = result
    for file, what in files.items():
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(what))
    return tmp_path


def open_all(folder) -> None:
    """Open the prepared host and both cells, as a run does at its start."""
    grid = load_grid(folder / "grid.yaml")
    sources = Sources(grid)
    assert open_host(grid, "tiny", "reviews", "fine-tuned", folder / "out", sources) is not None
    assert all(open_cell(grid, cell, folder / "out", sources) is not None for cell in grid.cells())


def test_what_has_not_changed(folder, caplog):
    open_all(folder)
    (folder / "host" / "README.md").write_text("A card changes nothing.")
    open_all(folder)
    assert not caplog.text


def test_a_host_that_was_trained_on_in_place(folder, host):
    with torch.no_grad():
        host.classifier.weight += 1
    host.save_pretrained(folder / "host")
    with pytest.raises(ValueError, match=r"prepared host in .* something else: host .*/host \(content .*--overwrite"):
        open_all(folder)


def test_weights_in_an_older_format_count_too(folder, host):
    torch.save(host.state_dict(), folder / "host" / "pytorch_model.bin")
    with pytest.raises(ValueError, match="something else: host"):
        open_all(folder)


def test_texts_that_were_edited_in_place(folder):
    file = folder / "reviews" / "test.jsonl"
    file.write_text(file.read_text().replace("film", "movie"))
    with pytest.raises(ValueError, match=r"something else: test texts \w{8}, not \w{8}\. Choose"):
        open_all(folder)


def test_a_saved_model_that_was_trained_on_in_place(folder, make_model):
    make_model(seed=1).save_pretrained(folder / "model")
    with pytest.raises(ValueError, match=r"cell .*mine_0 is of something else: model .*/model \("):
        open_all(folder)


def test_a_host_that_was_prepared_anew(folder):
    file = next((folder / "out").glob("hosts/*/host.json"))
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "content": {"name": "host", "weights": "2" * 16}}))
    with pytest.raises(ValueError, match=r"cell .* is of something else: prepared: weights 11111111, not 22222222"):
        open_all(folder)


def test_folders_of_earlier_versions_are_opened_with_a_warning(folder, caplog):
    for file in (folder / "out").glob("*/*/*.json"):
        content = json.loads(file.read_text())
        del content["identity"]
        file.write_text(json.dumps(content))
    open_all(folder)
    assert "does not say its training texts, test texts, host" in caplog.text

"""Whole runs, on a host that is trained from scratch in a second; in real processes where these are the point."""

import ctypes
import json
import os
import shutil
import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_from_disk
from helpers.grids_in_threads import run_in_threads
from helpers.tiny_grid import GRID
from rich.console import Console
from threadpoolctl import threadpool_limits
from transformers import AutoModel, AutoModelForSequenceClassification

from clvq_hf.checksums import read_metadata
from clvq_hf.comparison.cell import open_cell
from clvq_hf.comparison.grid import digest, load_grid
from clvq_hf.comparison.prepared_hosts import CACHED, open_host, prepare_host
from clvq_hf.comparison.prepared_hosts import _linear_explained_variance as linear_explained_variance
from clvq_hf.comparison.report import write_report
from clvq_hf.comparison.run import _work as work
from clvq_hf.comparison.run import run_grid
from clvq_hf.data.texts import text_hash
from clvq_hf.evaluation import WordMeans
from clvq_hf.models import ClusterModel
from clvq_hf.tables.concept_table import ConceptTable

pytestmark = pytest.mark.slow


def run(grid, folder, **options):
    with Path(os.devnull).open("w") as nowhere:
        return run_grid(grid, folder, console=Console(file=nowhere), **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, reviews):
    """A grid that has run: its file and folder."""
    folder = tmp_path_factory.mktemp("finished")
    os.environ["REVIEWS"] = str(reviews)
    file = folder / "grid.yaml"
    file.write_text(GRID)
    with pytest.MonkeyPatch.context() as monkeypatch:
        run_in_threads(monkeypatch)
        assert run(load_grid(file), folder / "out") == {}
    return file, folder / "out"


@pytest.fixture
def threads(monkeypatch):
    run_in_threads(monkeypatch)


@pytest.fixture
def copy(finished, tmp_path, monkeypatch, reviews):
    monkeypatch.setenv("REVIEWS", str(reviews))
    shutil.copytree(finished[1], tmp_path / "out")
    shutil.copy(finished[0], tmp_path / "grid.yaml")
    return tmp_path / "grid.yaml", tmp_path / "out"


def cells(folder):
    return {file.parent.name: read_metadata(file, "")[0] for file in sorted(folder.glob("cells/*/cell.json"))}


def without_time(cell):
    """A cell without its seconds, and without the figures of a decoder that is trained in it.

    Its last digits depend on how many threads the process has, and these on how many cells run at once.
    """
    host = {name: value for name, value in cell["host"].items() if name != "seconds"}
    assert cell["equal_splice"]["num_texts"] == cell["texts"]["num_texts"]
    return {name: value for name, value in cell.items() if name not in ("seconds", "equal_splice")} | {"host": host}


class TestAFinishedGrid:
    def test_has_every_cell_and_nothing_half_done(self, finished):
        file, folder = finished
        assert set(cells(folder)) == {cell.name for cell in load_grid(file).cells()}
        assert not list(folder.rglob("*.partial")) and not (folder / "failures").exists()

    def test_its_host_learned_and_its_figures_are_of_the_test_texts(self, finished):
        cell = cells(finished[1])["tiny_reviews_kmeans_0"]
        assert cell["host"]["accuracy"] > 0.75 and not cell["host"]["at_chance"]
        assert cell["texts"]["num_texts"] == cell["host"]["num_texts"]["test"] == 40
        assert cell["host"]["num_texts"]["train"] == 108 and cell["host"]["num_texts"]["validation"] == 12

    def test_its_linear_map_is_the_same_with_any_number_of_threads(self, finished):
        prepared = open_host(load_grid(finished[0]), "tiny", "reviews", "fine-tuned", finished[1])
        caches = [prepared.cache(part) for part in CACHED]
        for threads in (1, 2, 3):
            with threadpool_limits(threads):
                value = linear_explained_variance(*caches)
            assert value == prepared.record["linear_explained_variance"]

    def test_the_sweep_starts_with_the_headline(self, finished):
        for cell in cells(finished[1]).values():
            first = cell["sweep"][0]
            assert first["k"] == 1
            for name in ("token_specificity", "token_specificity_matched"):
                assert first[name] == cell["ablation"]["code"][name]
            assert np.mean(first["differences"]) == pytest.approx(first["token_specificity"], abs=1e-4)
            matched = [value for value in first["matched_differences"] if value is not None]
            if matched:
                assert np.mean(matched) == pytest.approx(first["token_specificity_matched"], abs=1e-4)
            assert first["num_matched"] == len(matched) <= len(first["differences"]) <= first["num_texts"]

    def test_what_concepts_say_beyond_their_word_is_kept_by_text(self, finished):
        cell = cells(finished[1])["tiny_reviews_kmeans_0"]
        beyond, figures = cell["beyond_word"], cell["ablation"]["code"]
        assert np.mean(beyond["differences"]) == pytest.approx(figures["word_residual_margin_change"], abs=1e-4)
        assert np.mean(beyond["control"]) == pytest.approx(figures["word_random_margin_change"], abs=1e-4)
        assert beyond["text_share"] == pytest.approx(figures["word_residual_text_share"])
        assert beyond["position_share"] == pytest.approx(figures["word_residual_position_share"])
        assert len(beyond["differences"]) == round(40 * beyond["text_share"]) > 20

    def test_every_method_is_spliced_with_the_same_decoder_and_measured_beyond_its_words(self, finished):
        for cell in cells(finished[1]).values():
            assert -1 < cell["equal_splice"]["explained_variance"] < 1 and "splice_fidelity" in cell["equal_splice"]
            assert cell["seconds"]["equal_splice"] > 0
            assert cell["words"]["senses"]["num_tokens"] > 0 and "sense_share" in cell["words"]["senses"]
            assert 0 <= cell["table"]["bag_of_codes"]["prediction_codes_5"] <= 1
            assert "within_word_gain" in cell["table"]["label_purity"]
        report = write_report(finished[1]).read_text()
        for title in ("with the same decoder for all methods", "from five codes"):
            assert title in report

    def test_words_are_read_from_every_text_that_is_not_measured(self, finished, reviews):
        folder = finished[1] / "hosts" / "tiny_reviews_fine-tuned"
        every = {
            text_hash(json.loads(line)["text"])
            for split in ("train", "test")
            for line in (reviews / f"{split}.jsonl").read_text().splitlines()
        }
        measured = {text_hash(text) for text in load_from_disk(folder / "texts" / "test")["text"]}
        assert len(measured) == 40 and WordMeans.load(folder / "words").text_hashes == every - measured

    def test_sparse_methods_are_swept_over_all_of_their_variants(self, finished):
        swept = cells(finished[1])["tiny_reviews_transcoder_0"]["sweep"]
        assert [(entry["variant"], entry["k"]) for entry in swept] == [
            ("encoder", 1),
            ("encoder", 2),
            ("decoder", 2),
            ("encoder_by_gradient", 2),
            ("decoder_by_gradient", 2),
        ]
        assert all(0 <= entry["removed_energy"] <= 1 for entry in swept)
        assert swept[1]["removed_energy"] > swept[0]["removed_energy"]

    def test_other_seeds_tell_stability_and_are_swept_too(self, finished):
        found = cells(finished[1])
        assert "stability" not in found["tiny_reviews_kmeans_0"]
        again = found["tiny_reviews_kmeans_1"]
        assert 0 < again["stability"]["ami"] <= 1 and len(again["sweep"]) == 2

    def test_what_a_cell_leaves_can_be_loaded(self, finished):
        folder = finished[1] / "cells" / "tiny_reviews_kmeans_0"
        model = AutoModel.from_pretrained(folder / "model")
        assert isinstance(model, ClusterModel) and not model.config.has_decoder
        ConceptTable.load_from_disk(folder / "evaluation" / "concept_table").check_model(model)

    def test_is_not_run_again(self, copy, threads):
        file, folder = copy
        before = {path: path.stat().st_mtime_ns for path in folder.glob("*/*/*.json")}
        assert run(load_grid(file), folder) == {}
        assert {path: path.stat().st_mtime_ns for path in folder.glob("*/*/*.json")} == before

    def test_writes_a_report_with_figures(self, copy):
        report = write_report(copy[1])
        text = report.read_text()
        for title in (
            "Token specificity, 1 direction removed, all texts",
            "Label purity, compared on the same tokens",
            "Stability over seeds",
            "On what footing",
            "Seconds a cell",
        ):
            assert f"## {title}" in text
        assert "| tiny, reviews |" in text and "K-means" in text
        assert str(copy[1]) not in (copy[1] / "cells.jsonl").read_text()
        again = write_report(copy[1] / "cells.jsonl", copy[1] / "again")
        assert again.read_text() == text
        images = sorted(path.name for path in (copy[1] / "figures").iterdir())
        assert "purity.png" in images and "stability.svg" in images
        assert all((copy[1] / "figures" / name).stat().st_size > 2000 for name in images)


class TestWhatIsMissing:
    def test_another_grid_is_refused_before_anything_is_done(self, copy):
        file, folder = copy
        file.write_text(file.read_text().replace("codebook_size: 12", "codebook_size: 10"))
        before = sorted(folder.rglob("*"))
        with pytest.raises(ValueError, match="was run with other settings than the grid's"):
            run(load_grid(file), folder)
        assert sorted(folder.rglob("*")) == before

    def test_texts_that_were_edited_are_refused_unless_it_is_overwritten(self, copy, tmp_path, monkeypatch, threads):
        file, folder = copy
        reviews = shutil.copytree(os.environ["REVIEWS"], tmp_path / "edited")
        monkeypatch.setenv("REVIEWS", str(reviews))
        for record in [*folder.glob("hosts/*/host.json"), *folder.glob("cells/*/cell.json")]:
            content, _ = read_metadata(record, "")  # of the same path
            settings = content["settings"]
            settings["dataset"]["texts"] = str(reviews)
            record.write_text(json.dumps({**content, "digest": digest(settings)}))
        assert run(load_grid(file), folder) == {}
        (reviews / "test.jsonl").write_text((reviews / "test.jsonl").read_text().replace("film", "movie"))
        with pytest.raises(ValueError, match="is of something else: test texts"):
            run(load_grid(file), folder)
        assert run(load_grid(file), folder, overwrite=True) == {}
        table = ConceptTable.load_from_disk(
            folder / "cells" / "tiny_reviews_kmeans_0" / "evaluation" / "concept_table"
        )
        assert any("movie" in text for text in table.texts["text"])

    def test_a_first_seed_that_failed_once_is_compared_with_when_it_is_there(self, copy):
        file, folder = copy
        before = cells(folder)["tiny_reviews_kmeans_1"]
        shutil.rmtree(folder / "cells" / "tiny_reviews_kmeans_0")
        later = folder / "cells" / "tiny_reviews_kmeans_1"
        alone = {name: value for name, value in before.items() if name != "stability"}
        (later / "cell.json").write_text(json.dumps(alone))
        weights = (later / "model" / "model.safetensors").stat().st_mtime_ns
        assert run(load_grid(file), folder) == {}
        assert cells(folder)["tiny_reviews_kmeans_1"] == before
        assert (later / "model" / "model.safetensors").stat().st_mtime_ns == weights, "nothing else is computed again"

    def test_is_all_that_is_run_and_a_full_disk_costs_one_cell(self, copy, threads):
        """The transcoder's weights do not fit; then one cell is half-written as well, and one lacks its result."""
        file, folder = copy
        grid = load_grid(file)
        shutil.rmtree(folder / "cells" / "tiny_reviews_transcoder_1")
        kept = {path: path.stat().st_mtime_ns for path in folder.glob("*/*/*.json")}
        # The transcoder's weights exceed the limit on the size of a file.
        import resource

        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (14_000, before[1]))
        try:
            failures = run(grid, folder)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert list(failures) == ["tiny_reviews_transcoder_1"]
        assert open_cell(grid, grid.cells()[1], folder) is not None  # what was there
        assert not list(folder.rglob("*.partial"))
        half_written = folder / "cells" / "tiny_reviews_kmeans_1"
        half_written.rename(half_written.with_name(".tiny_reviews_kmeans_1.partial"))
        (folder / "cells" / "tiny_reviews_kmeans_0" / "cell.json").unlink()
        again = {path for path in kept if path.parent.name in ("tiny_reviews_kmeans_0", "tiny_reviews_kmeans_1")}
        assert run(grid, folder) == {} and len(cells(folder)) == 4
        assert all(path.stat().st_mtime_ns == kept[path] for path in kept.keys() - again)


class TestRunsThatEndEarly:
    def start(self, file, folder, *options):
        command = [Path(sys.executable).with_name("clvq-hf"), "compare", file, "-o", folder, *options]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    def wait_for(self, condition, process, seconds=300):
        end = time.monotonic() + seconds
        while not condition():
            assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
            time.sleep(0.05)

    def test_a_killed_run_goes_on_and_gives_the_same(self, grid_file, tmp_path, finished):
        folder = tmp_path / "out"
        first = self.start(grid_file, folder, "--processes", "2")
        self.wait_for(lambda: list(folder.glob("hosts/.*.partial")), first)
        with pytest.raises(ValueError, match="Another run is at work"):
            run(load_grid(grid_file), folder)
        second = self.start(grid_file, folder, "--wait")
        self.wait_for(lambda: cells(folder), first)
        children = subprocess.run(["pgrep", "-P", str(first.pid)], capture_output=True, text=True).stdout.split()
        first.kill()
        first.wait()
        done = set(cells(folder))
        assert children and 1 <= len(done) < 4
        stamps = {name: (folder / "cells" / name / "cell.json").stat().st_mtime_ns for name in done}
        end = time.monotonic() + 300
        while any(Path(f"/proc/{child}").exists() for child in children):
            assert time.monotonic() < end, "a worker outlives its parent"
            time.sleep(0.2)
        output = second.communicate(timeout=600)[0]
        assert second.returncode == 0 and "4/4" in output and "left" in output and "report.md" in output, output
        assert {name: (folder / "cells" / name / "cell.json").stat().st_mtime_ns for name in done} == stamps
        assert {name: without_time(cell) for name, cell in cells(folder).items()} == {
            name: without_time(cell) for name, cell in cells(finished[1]).items()
        }


def deadly_work(grid, task, output_dir):
    """One task always kills its process, another the first time; the rest begins when that has happened."""
    name = getattr(task, "name", "")
    died = output_dir / "died"
    if name == "tiny_reviews_deadly_0":
        os._exit(9)
    if name == "tiny_reviews_transcoder_0" and not died.exists():
        died.touch()
        os._exit(9)
    end = time.monotonic() + 300
    while not died.exists() and time.monotonic() < end:
        time.sleep(0.05)
    return work(grid, task, output_dir)


def stuck_work(grid, task, output_dir):
    """A task in a call that keeps the interpreter's lock: no thread of its process runs."""
    (output_dir / "stuck").touch()
    ctypes.PyDLL(None).sleep(900)


class TestCellsThatFail:
    def test_an_interrupted_run_leaves_no_process(self, copy, monkeypatch):
        file, folder = copy
        shutil.rmtree(folder / "cells" / "tiny_reviews_kmeans_0")

        def interrupt(*_, **__):
            end = time.monotonic() + 300
            while not (folder / "stuck").exists() and time.monotonic() < end:
                time.sleep(0.05)
            raise KeyboardInterrupt

        monkeypatch.setattr("clvq_hf.comparison.run._work", stuck_work)
        monkeypatch.setattr("clvq_hf.comparison.run.wait", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(load_grid(file), folder)
        assert (folder / "stuck").exists()
        end = time.monotonic() + 300
        while active_children():
            assert time.monotonic() < end, "a worker outlives the run"
            time.sleep(0.1)

    def test_an_import_that_fails_in_a_worker_is_named(self, copy, tmp_path, monkeypatch):
        file, folder = copy
        shutil.rmtree(folder / "cells" / "tiny_reviews_kmeans_1")
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        code = "from multiprocessing import parent_process\nassert parent_process() is None, 'not in a worker'\n"
        (tmp_path / "only_in_the_parent.py").write_text(code)
        file.write_text(f"imports: [only_in_the_parent]\n{file.read_text()}")
        [reason] = run(load_grid(file), folder).values()
        assert "only_in_the_parent" in reason and "not in a worker" in reason

    def test_cost_no_other(self, copy, monkeypatch):
        """One kills its process, one only beside others, and two want more clusters than there are tokens."""
        file, folder = copy
        kmeans = "  - {{name: {}, method: kmeans, config: {{codebook_size: {}}}, hosts: [tiny]}}\n"
        file.write_text(file.read_text() + kmeans.format("too-many", 5000) + kmeans.format("deadly", 12))
        shutil.rmtree(folder / "cells" / "tiny_reviews_transcoder_0")
        monkeypatch.setattr("clvq_hf.comparison.run._work", deadly_work)
        failures = run(load_grid(file), folder, processes=2)
        assert (folder / "died").exists()
        assert failures.pop("tiny_reviews_deadly_0") == "its process died; was there too little memory?"
        assert set(failures) == {"tiny_reviews_too-many_0", "tiny_reviews_too-many_1"}
        assert all("Choose fewer clusters" in reason for reason in failures.values())
        assert "Traceback" in (folder / "failures" / "tiny_reviews_too-many_0.txt").read_text()
        found = cells(folder)
        assert {"tiny_reviews_transcoder_0", "tiny_reviews_deadly_1"} <= set(found) and len(found) == 5
        assert "stability" not in found["tiny_reviews_deadly_1"]  # there is nothing to compare it with


class TestPublishedDictionaries:
    """Files that SAELens and sparsify have written, see `tests/fixtures/make_dictionaries.py`."""

    def test_take_part(self, grid_file, tmp_path, threads):
        text = grid_file.read_text()
        text = text.replace("n_layer: 2, n_embd: 32", "n_layer: 3, n_embd: 16").replace("[0, 1]", "[0]")
        text = text.replace("lower_layer: 1", "lower_layer: 2").replace("upper_layer: 2", "upper_layer: 3")
        folder = Path(__file__).parents[1] / "fixtures" / "dictionaries"
        names = {"saelens": folder / "standard", "sparsify": folder / "sparsify" / "layers.2"}
        text = text[: text.index("methods:")] + "methods:\n  - {method: kmeans, config: {codebook_size: 12}}\n"
        for name, path in names.items():
            text += f"  - {{name: {name}, method: published, config: {{path: {path}}}}}\n"
        grid_file.write_text(text)
        assert run(load_grid(grid_file), tmp_path / "out") == {}
        found = cells(tmp_path / "out")
        for name, layers in (("saelens", [2, 2]), ("sparsify", [2, 3])):
            cell = found[f"tiny_reviews_{name}_0"]
            assert cell["texts"] and cell["codebook_size"] == 32 and len(cell["sweep"]) == 5
            config = AutoModel.from_pretrained(tmp_path / "out" / "cells" / f"tiny_reviews_{name}_0" / "model").config
            assert [config.lower_layer, config.upper_layer] == layers and config.model_type == "sparse_dictionary"
        assert 0 < found["tiny_reviews_sparsify_0"]["bottleneck"]["num_active"] <= 4  # its k, of 32 neurons
        assert "saelens" in write_report(tmp_path / "out").read_text()


def test_a_classifier_of_the_same_labels_in_another_order(finished, tmp_path, monkeypatch, reviews):
    """It is taken as it is, with the accuracy that it has in the order of the dataset."""
    monkeypatch.setenv("REVIEWS", str(reviews))
    before = json.loads((finished[1] / "hosts" / "tiny_reviews_fine-tuned" / "host.json").read_text())
    host = AutoModelForSequenceClassification.from_pretrained(finished[1] / "hosts/tiny_reviews_fine-tuned/host")
    with torch.no_grad():
        host.score.weight.copy_(host.score.weight.flip(0))
    host.config.id2label, host.config.label2id = {0: "Good", 1: "Bad"}, {"Good": 0, "Bad": 1}
    host.save_pretrained(tmp_path / "host")
    shutil.copy(finished[1] / "hosts/tiny_reviews_fine-tuned/host/tokenizer.json", tmp_path / "host")
    shutil.copy(finished[1] / "hosts/tiny_reviews_fine-tuned/host/tokenizer_config.json", tmp_path / "host")
    text = GRID.replace("$REVIEWS}", "$REVIEWS, label_names: [bad, good]}")
    start, end = text.index("    from_scratch"), text.index("    lower_layer")
    (tmp_path / "grid.yaml").write_text(text[:start] + f"    model: {tmp_path / 'host'}\n" + text[end:])
    prepared = prepare_host(load_grid(tmp_path / "grid.yaml"), "tiny", "reviews", "fine-tuned", tmp_path / "out")
    assert prepared.record["accuracy"] == before["accuracy"] > 0.75
    assert prepared.record["label_names"] == ["Good", "Bad"]


class TestBadInput:
    def test_hosts_that_do_not_fit(self, finished, grid_file, tmp_path):
        """One is at chance, which is no failure; one lacks the layer, one has other labels. What is not ours stays."""
        host = finished[1] / "hosts" / "tiny_reviews_fine-tuned" / "host"
        shutil.copytree(host, tmp_path / "host")
        config = json.loads((tmp_path / "host" / "config.json").read_text())
        config |= {"id2label": {"0": "spam", "1": "ham"}, "label2id": {"spam": 0, "ham": 1}}
        (tmp_path / "host" / "config.json").write_text(json.dumps(config))
        others = f"""
  high: {{from_scratch: gpt2, config: {{n_layer: 2, n_embd: 32, n_head: 2}}, lower_layer: 1, upper_layer: 7}}
  spam: {{model: {tmp_path / "host"}, lower_layer: 1, upper_layer: 2}}
datasets"""
        text = grid_file.read_text().replace("[0, 1]", "[0]")
        text = text[: text.index("  - method: transcoder")]
        text = text.replace("{texts: $REVIEWS}", "{texts: $REVIEWS, label_names: [bad, good]}")
        grid_file.write_text(text.replace("learning_rate: 1e-2}\ndatasets", "learning_rate: 0.0}" + others))
        folder = tmp_path / "out"
        (folder / "failures").mkdir(parents=True)
        (folder / "failures" / "mine.csv").write_text("1")
        (folder / "notes" / ".draft.partial").mkdir(parents=True)
        failures = run(load_grid(grid_file), folder, processes=2)
        assert (folder / "failures" / "mine.csv").exists() and (folder / "notes" / ".draft.partial").exists()
        assert set(failures) == {
            f"{host}_reviews_{task}" for host in ("high", "spam") for task in ("fine-tuned", "kmeans_0")
        }
        for task in ("fine-tuned", "kmeans_0"):
            assert "7" in failures[f"high_reviews_{task}"]
            assert "are bad, good; the host's classes are 0 (spam), 1 (ham)" in failures[f"spam_reviews_{task}"]
        [cell] = cells(folder).values()
        assert cell["texts"]["label_names"] == ["bad", "good"]
        assert "The host is at chance" in cell["refused"] and cell["ablation"] == {} and "sweep" not in cell
        assert cell["table"]["label_purity"]["cross_fitted_purity"] > 0
        assert "at chance" in write_report(folder).read_text()

    def test_a_dataset_that_is_not_there(self, grid_file, tmp_path):
        grid_file.write_text(grid_file.read_text().replace("$REVIEWS", "$REVIEWS/none.jsonl"))
        with pytest.raises(ValueError, match=r"of the dataset reviews cannot be used: There is no file"):
            run(load_grid(grid_file), tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_texts_without_labels(self, grid_file, tmp_path, reviews):
        lines = (reviews / "test.jsonl").read_text().replace('"label": 1', '"label": null')
        shutil.copytree(reviews, tmp_path / "reviews")
        (tmp_path / "reviews" / "test.jsonl").write_text(lines)
        grid_file.write_text(grid_file.read_text().replace("$REVIEWS", str(tmp_path / "reviews")))
        with pytest.raises(
            ValueError, match="split test of the dataset reviews cannot be used: 30 of 60 texts have no"
        ):
            run(load_grid(grid_file), tmp_path / "out")

    def test_a_report_of_nothing(self, tmp_path):
        with pytest.raises(ValueError, match="no finished cell"):
            write_report(tmp_path)

import dataclasses

import pytest
import yaml
from helpers.tiny_grid import GRID

from clvq_hf.comparison.grid import digest, load_grid
from clvq_hf.comparison.methods import check_fields, known_methods


def changed(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    return file


def test_every_cell_is_there_once_and_first_seeds_come_first(grid_file):
    grid = load_grid(grid_file)
    names = [cell.name for cell in grid.cells()]
    assert names == [f"tiny_reviews_{method}_{seed}" for seed in (0, 1) for method in ("kmeans", "transcoder")]


def test_settings_of_a_method_are_added_to_its_own(grid_file):
    method = load_grid(grid_file).methods["transcoder"]
    assert method.config == {"activation": "topk", "num_active": 4, "sparsity_cost": 0.0, "codebook_size": 64}
    assert known_methods()["transcoder"].config["num_active"] == 32


def test_numbers_with_an_exponent_are_numbers(grid_file):
    assert load_grid(grid_file).methods["transcoder"].training["learning_rate"] == 0.01
    assert load_grid(grid_file).hosts["tiny"].fine_tune["learning_rate"] == 0.01


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("method: kmeans", "method: k-means", "no method 'k-means'; there are clvq, clvq-paper, .*, vqvae, kmeans"),
        ("codebook_size: 12", "codebook: 12", "kmeans has no field 'codebook' in config; there are .*codebook_size"),
        ("codebook_size: 12", "codebook_size: 0", "kmeans: codebook_size must be an integer of at least 1"),
        ("num_train_epochs: 2", "epochs: 2", "transcoder has no field 'epochs' in training"),
        ("lower_layer: 1", "lower: 1", "host tiny has no field 'lower'"),
        ("    lower_layer: 1\n", "", "host tiny: .*lower_layer"),
        ("from_scratch: gpt2", "stack: null", "tiny needs either a model or from_scratch"),
        ("texts: $REVIEWS", "texts: $NOWHERE", "environment variable NOWHERE, which is not set"),
        ("texts: $REVIEWS", "path: here", "dataset reviews has no field 'path'"),
        ("{texts: $REVIEWS}", "{texts: $REVIEWS, eval_part: dev}", "the part 'dev'; there are .*select"),
        ("seeds: [0, 1]", "seed: 0", "no use for 'seed'"),
        ("seeds: [0, 1]", "imports: mine", "Imports must be a list, got 'mine'"),
        ("seeds: [0, 1]", "imports: [1]", "imports must be names of modules, got 1"),
        ("seeds: [0, 1]", "imports: [nowhere.to_be]", "module 'nowhere.to_be' cannot be imported: No module named"),
        ("protocols: [code]", "protocols: [cls]", "no protocol 'cls'"),
        ("conditions: [salient,", "conditions: [salience,", "no condition 'salience'"),
        ("datasets:\n  reviews: {texts: $REVIEWS}", "", "names no datasets"),
        ("  tiny:", "  a_b:", "letters, digits, dots and dashes"),
        ("max_length: 24", "length: 24", "Sizes has no field 'length'"),
        ("seeds: [0, 1]", "seeds: 0", "Seeds must be a list, got 0"),
        ("seeds: [0, 1]", "seeds: []", "Seeds must be a list"),
        ("seeds: [0, 1]", "seeds: [a]", "seeds must be different integers"),
        ("seeds: [0, 1]", "seeds: [1, 1]", "seeds must be different integers"),
        ("sweep: [1, 2]", "sweep: 5", "Sweep must be a list, got 5"),
        ("sweep: [1, 2]", "sweep: [0]", "sweep must be different integers of at least 1"),
        ("num_draws: 1", "how: foo", "how must be one of"),
        ("conditions: [salient, other_code,", "conditions: [salient,", "must name salient and other_code"),
        (
            "{num_train_epochs: 4, learning_rate: 1e-2}",
            "{epochs: 4}",
            "fine_tune of the host tiny has no field 'epochs'",
        ),
        ("{num_train_epochs: 4, learning_rate: 1e-2}", "fast", "Fine_tune of the host tiny must be a mapping"),
        ("{texts: $REVIEWS}", "reviews.jsonl", "dataset reviews must be a mapping of fields, got 'reviews.jsonl'"),
        ("$REVIEWS}", "$REVIEWS, label_names: [no, yes]}", r"must be a list of names.*got \(False, True\)"),
        ("$REVIEWS}", "$REVIEWS, label_names: good}", "must be a list of names.*got 'good'"),
        ("config: {codebook_size: 12}", "config: 12", "Config of the method kmeans must be a mapping"),
        ("config: {codebook_size: 12}", "family: sparse", "kmeans has no field 'family'"),
        ("  - {method: kmeans, config: {codebook_size: 12}}", "  - null", "The method None must be|no method None"),
        ("num_train_epochs: 2", "seed: 2", "transcoder has no field 'seed' in training"),
        ("    vocab_size: 400", "    seeds: [1]", "seeds .1. of the host tiny must be among the grid's"),
    ],
)
def test_what_is_wrong_is_named_with_what_there_is(grid_file, old, new, message):
    with pytest.raises(ValueError, match=message):
        load_grid(changed(grid_file, old, new))


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(ValueError, match="no file"):
        load_grid(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("hosts: [")
    with pytest.raises(ValueError, match="is no YAML"):
        load_grid(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- clvq")
    with pytest.raises(ValueError, match="must hold hosts"):
        load_grid(tmp_path / "list.yaml")


def test_two_methods_of_one_name(grid_file):
    with pytest.raises(ValueError, match="Two methods are called 'kmeans'"):
        load_grid(changed(grid_file, "methods:", "methods:\n  - kmeans"))


def test_a_method_may_be_for_some_hosts(grid_file):
    grid = load_grid(changed(grid_file, "methods:", "methods:\n  - {method: token-types, hosts: [tiny]}"))
    assert sum(cell.method == "token-types" for cell in grid.cells()) == 2
    with pytest.raises(ValueError, match="for the host 'bert', which the grid lacks"):
        load_grid(changed(grid_file, "hosts: [tiny]", "hosts: [bert]"))


def test_a_host_from_scratch_was_never_pretrained(grid_file):
    grid = load_grid(changed(grid_file, "methods:", "methods:\n  - pretrained-host\n  - reinitialised-host"))
    assert {cell.method for cell in grid.cells()} == {"kmeans", "transcoder", "reinitialised-host"}


def test_a_host_may_have_sizes_seeds_and_measures_of_its_own(grid_file):
    own = "    vocab_size: 400\n    seeds: [0]\n    sizes: {test_texts: 5}\n    evaluation: {num_draws: 7}\n"
    grid = load_grid(changed(grid_file, "    vocab_size: 400\n", own))
    assert {cell.seed for cell in grid.cells()} == {0}
    assert grid.sizes_of("tiny").test_texts == 5 and grid.sizes_of("tiny").train_texts == 120
    assert grid.evaluation_of("tiny").num_draws == 7 and grid.evaluation_of("tiny").max_length == 24


def test_a_loaded_model_needs_a_path(grid_file):
    with pytest.raises(ValueError, match="scope is loaded: say from where"):
        load_grid(changed(grid_file, "methods:", "methods:\n  - {name: scope, method: published}"))


def test_what_a_cell_depends_on_changes_its_digest(grid_file):
    grid = load_grid(grid_file)
    cell = grid.cells()[0]
    before = digest(grid.cell_settings(cell))
    assert digest(load_grid(grid_file).cell_settings(cell)) == before
    other = load_grid(changed(grid_file, "codebook_size: 12", "codebook_size: 13"))
    assert digest(other.cell_settings(cell)) != before
    transcoder = grid.cells()[1]
    assert digest(other.cell_settings(transcoder)) == digest(grid.cell_settings(transcoder))
    assert digest(other.host_settings("tiny", "reviews", "fine-tuned")) == digest(
        grid.host_settings("tiny", "reviews", "fine-tuned")
    )


def test_what_a_host_does_not_depend_on_does_not_change_its_digest(grid_file):
    def digests(file):
        grid = load_grid(file)
        return digest(grid.host_settings("tiny", "reviews", "fine-tuned")), digest(grid.cell_settings(grid.cells()[0]))

    host, cell = digests(grid_file)
    titled = digests(changed(grid_file, "{method: kmeans,", "{method: kmeans, title: Clusters,"))
    assert titled == (host, cell)
    seeded = digests(changed(grid_file, "    vocab_size: 400", "    vocab_size: 400\n    seeds: [0]"))
    assert seeded == (host, cell)
    measured = digests(changed(grid_file, "num_draws: 1", "num_draws: 2"))
    assert measured[0] == host and measured[1] != cell
    # Mean states of words belong to the host.
    without = digests(changed(grid_file, "word_residual, word_random", "class_ceiling"))
    assert without[0] != host
    assert digests(changed(grid_file, "class_ceiling", "leace"))[0] == without[0]


def test_heads_may_divide_widths_that_are_not_ours(grid_file):
    wide = "  - {method: clvq, config: {num_attention_heads: 14}}\nstudies: {heads: [clvq]}\n"
    grid_file.write_text(grid_file.read_text() + wide)
    assert load_grid(grid_file).studies == {"heads": ("clvq",)}


def test_the_paper_trains_causal_hosts_otherwise_unless_the_grid_says_how(grid_file):
    paper = changed(grid_file, "methods:", "methods:\n  - clvq-paper")
    method = load_grid(paper).methods["clvq-paper"]
    assert method.training["learning_rate"] == 5e-3 and method.causal_training["learning_rate"] == 1e-3
    own = changed(paper, "- clvq-paper", "- {method: clvq-paper, training: {learning_rate: 1e-4}}")
    method = load_grid(own).methods["clvq-paper"]
    assert method.training["learning_rate"] == 1e-4
    assert method.causal_training == {"per_device_train_batch_size": 64}


@pytest.mark.parametrize("name", list(known_methods()))
def test_our_methods_are_sound(name):
    method = known_methods()[name]
    if method.family in ("dictionary", "saved"):
        method = dataclasses.replace(method, config={"path": "somewhere"})
    check_fields(name, method)


def leaves(value, path=()):
    """Every value of a grid that holds no others, with the keys that lead to it."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if parts is None:
        yield path, value
    else:
        for key, each in parts:
            yield from leaves(each, (*path, key))


FULL = """
imports: [json]
studies: {some: [kmeans, topk]}
hosts:
  tiny:
    stack: null
    load: {revision: main, dtype: float32, local_files_only: true}
    model: some/model
    seeds: [0]
    sizes: {test_texts: 5}
    evaluation: {how: project, k: 2, attribution: occlusion, sign: abs, max_length: 9, batch_size: 4, seed: 1}
    fine_tune: {above_layer: 1, seed: 3, lr_scheduler_type: linear, bf16: false, warmup_steps: 0.1, logging_steps: 5}
datasets:
  reviews: {subset: one, text_column: text, label_column: label, train_split: train, eval_split: test,
            eval_part: select, label_names: ["a", "b"]}
methods:
  - {method: published, config: {path: org/name, subfolder: x, lower_layer: 1}}
  - {name: topk, method: transcoder, title: TopK, single_layer: true, host: pretrained, control: true, hosts: [tiny],
     permute_labels: false, config: {activation: relu, sparsity_cost: 0.1, num_active: null},
     training: {lr_scheduler_type: linear, max_length: 16, optim: adamw_torch, save_steps: 10, bf16: false}}
  - {name: agglomerative, method: kmeans, training: {max_tokens: 100}}
  - {method: clvq, config: {temperature: 0.5, encoder: linear, center_states: false, revive_after: 3}}
"""


def full_grid(reviews):
    grid, more = yaml.safe_load(GRID.replace("$REVIEWS", str(reviews)).replace("1e-2", "0.01")), yaml.safe_load(FULL)
    for kind in ("hosts", "datasets"):
        for name, fields in more.pop(kind).items():
            grid[kind][name] |= fields
    del grid["hosts"]["tiny"]["from_scratch"], grid["hosts"]["tiny"]["config"]
    return {**grid, **more, "methods": grid["methods"] + more["methods"]}


NAN, HUGE = float("nan"), 10**30
# For a value of each type, what it cannot be.
WRONG = {
    int: ["text", [1], {}, True, 1.5, -7, NAN, HUGE, {"a": 1}],
    float: ["text", [0.5], {}, True, -7.5, NAN, float("inf"), HUGE],
    bool: ["text", [True], {}, 7, 0.5],
    str: [[], ["a"], {}, {"a": 1}, True, 5, 0.5, HUGE],
    type(None): [[1], {"a": 1}, -7, NAN],
}
ALL_LEAVES = [path for path, _ in leaves(full_grid("REVIEWS"))]


def test_the_full_grid_is_one(tmp_path, reviews):
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(full_grid(reviews)))
    load_grid(tmp_path / "grid.yaml")


@pytest.mark.parametrize("path", ALL_LEAVES, ids=lambda path: ".".join(map(str, path)))
def test_every_value_of_a_wrong_type_is_refused_before_anything_runs(path, tmp_path, reviews):
    for wrong in WRONG[type(dict(leaves(full_grid(reviews)))[path])]:
        if path[-1] == "num_train_epochs" and wrong == 1.5:  # which is an int in this grid alone
            continue
        grid = full_grid(reviews)
        place = grid
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = wrong
        (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
        with pytest.raises(ValueError) as caught:
            load_grid(tmp_path / "grid.yaml")
        # The key, or what holds it.
        names = [key for key in path if isinstance(key, str)]
        assert any(name.lower().rstrip("s") in str(caught.value).lower() for name in names[-2:]), (wrong, caught.value)


@pytest.mark.parametrize("key", ["1", "null", "2026-01-01", "true"])
def test_keys_that_are_no_names(grid_file, key):
    with pytest.raises(ValueError, match=r"has the key .* no text; put it in quotes"):
        load_grid(changed(grid_file, "  tiny:", f"  {key}:"))


def test_a_host_cannot_ask_for_code_or_pickles(grid_file):
    for name in ("trust_remote_code: true", "use_safetensors: false", "weights_only: false"):
        file = changed(grid_file, "    vocab_size: 400", f"    vocab_size: 400\n    load: {{{name}}}")
        with pytest.raises(ValueError, match=f"load of the host tiny may not name '{name.split(':')[0]}'"):
            load_grid(file)
        changed(file, f"\n    load: {{{name}}}", "")

"""The world with known concepts: what its texts promise, and its score on examples that are worked out by hand."""

import importlib.util
import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.made_tables import made_table

from clvq_hf.comparison.grid import load_grid
from clvq_hf.data.texts import load_texts
from clvq_hf.hosts.host import load_host
from clvq_hf.training.finetuning import load_classifier

ROOT = Path(__file__).parents[1]


def script(name):
    spec = importlib.util.spec_from_file_location(f"made_world_{name}", ROOT / "scripts" / "made_world" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


world, score = script("world"), script("score")
SMALL = world.SIZES["small"]


@pytest.fixture(scope="module")
def small():
    return world.World.make(SMALL, seed=0)


@pytest.fixture(scope="module")
def texts(small):
    return small.texts(3000, np.random.default_rng(0))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A world with everything in it, but a host that has seen two batches."""
    folder = tmp_path_factory.mktemp("worlds") / "tiny"
    size = world.Size(topics=4, pairs=3, cues=3, distractors=4, function_words=3, width=8, host_texts=128)
    checks = world.make_world(folder, size, seed=1, train_texts=300, test_texts=100)
    return folder, checks


# ----------------------------------------------------------------------------------------------------------- the world


@pytest.mark.parametrize("name", world.SIZES)
def test_votes_of_a_word_cancel_over_topics_and_those_of_a_pair_in_each(name):
    made = world.World.make(world.SIZES[name], seed=3)
    pairs = made.size.pairs
    assert (made.votes.sum(axis=1) == 0).all()
    assert (made.votes[0 : 2 * pairs : 2] == -made.votes[1 : 2 * pairs : 2]).all()
    assert not made.votes[2 * pairs :].any() and not made.senses[2 * pairs :].any()
    assert len(set(made.words)) == len(made.words) == len(made.votes)
    # A sense has one vote, whatever the topic, and the senses of a word have different ones.
    for senses, votes in zip(made.senses[: 2 * pairs], made.votes[: 2 * pairs], strict=True):
        of_sense = set(zip(senses.tolist(), votes.tolist(), strict=True))
        assert len(of_sense) == len(set(senses.tolist())) == len(set(votes.tolist())) in (2, 3)
    assert Counter(len(set(row)) for row in made.senses.tolist())[3] == 2 * (pairs // 3)


def test_the_label_is_what_most_senses_vote_for(small, texts):
    place = {word: number for number, word in enumerate(small.words)}
    for row in texts:
        ids = [place[word] for word in row["text"].split()]
        assert row["senses"] == small.senses[ids, row["topic"]].tolist()
        assert row["votes"] == small.votes[ids, row["topic"]].tolist()
        assert row["label"] == ("plus" if sum(row["votes"]) > 0 else "minus") and sum(row["votes"]) != 0


def test_topics_are_told_by_their_cues(small, texts):
    first, last = 2 * SMALL.pairs, 2 * SMALL.pairs + SMALL.topics * SMALL.cues
    place = {word: number for number, word in enumerate(small.words)}
    for row in texts:
        cues = [(place[w] - first) // SMALL.cues for w in row["text"].split() if first <= place[w] < last]
        counts = Counter(cues)
        assert 3 <= counts.pop(row["topic"]) <= 5 and sum(counts.values()) <= 1


def test_labels_are_balanced_in_each_topic_and_texts_differ(texts):
    assert Counter(row["label"] for row in texts) == {"plus": 1500, "minus": 1500}
    for topic in range(SMALL.topics):
        labels = [row["label"] for row in texts if row["topic"] == topic]
        # Within four standard deviations of a fair coin.
        assert abs(labels.count("plus") / len(labels) - 0.5) < 2 / np.sqrt(len(labels))
    assert len({row["text"] for row in texts}) == 3000


def test_words_are_as_frequent_as_zipf_says(small, texts):
    counts = Counter(word for row in texts for word in row["text"].split())
    by_pair = [counts[small.words[2 * p]] + counts[small.words[2 * p + 1]] for p in range(SMALL.pairs)]
    # Ties are drawn again, which makes words with a sense without a vote (every third pair) somewhat rarer.
    expected = world.zipf(SMALL.pairs) * sum(by_pair)
    assert np.abs(np.array(by_pair) / expected - 1).max() < 0.35
    assert world.zipf(3).tolist() == pytest.approx([6 / 11, 3 / 11, 2 / 11])


def test_words_alone_do_not_tell_the_label(texts):
    assert world.bag_of_words(texts[:2000], texts[2000:]) < 0.6


def test_a_seed_gives_the_same_world(small, texts):
    again = world.World.make(SMALL, seed=0)
    assert again.words == small.words and (again.senses == small.senses).all()
    assert again.texts(50, np.random.default_rng(0)) == small.texts(50, np.random.default_rng(0))
    assert world.World.make(SMALL, seed=1).words != small.words
    known = [row["text"] for row in texts]
    assert not {row["text"] for row in small.texts(100, np.random.default_rng(0), known)} & set(known)


def test_folder_of_a_world(made, tmp_path, monkeypatch):
    folder, checks = made
    names = {"texts/train.jsonl", "texts/test.jsonl", "truth/train.jsonl", "truth/test.jsonl", "truth/words.json"}
    assert names <= {str(file.relative_to(folder)) for file in folder.rglob("*")}
    train, test = (load_texts(str(folder / "texts"), split) for split in ("train", "test"))
    assert len(train) == 300 and len(test) == 100 and train.column_names == ["text", "label"]
    assert not set(train["text"]) & set(test["text"])
    words = json.loads((folder / "truth" / "words.json").read_text())
    for line in (folder / "truth" / "test.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert row["senses"] == [words[word]["senses"][row["topic"]] for word in row["text"].split()]
    assert [layer["layer"] for layer in checks["probe"]] == [0, 1, 2, 3, 4]
    assert 0 <= checks["host_accuracy"] <= 1 and json.loads((folder / "checks.json").read_text()) == checks
    # The host is a finished classifier of these labels, and its tokenizer makes a token of each word.
    host = load_host(str(folder / "host"))
    tokenizer = world.PreTrainedTokenizerFast.from_pretrained(folder / "host")
    assert load_classifier(str(folder / "host"), tokenizer, ["minus", "plus"])[1] is False
    tokens = tokenizer.tokenize(test["text"][0], add_special_tokens=True)
    assert tokens == ["[CLS]", *test["text"][0].split(), "[SEP]"] and host.config.num_hidden_layers == 4
    # Positions beyond the longest possible text are not needed.
    most = max(world.VOTERS) + sum(limits[1] for limits in (world.CUES, world.OTHER_CUES, world.DISTRACTORS))
    assert most + world.FUNCTION_WORDS[1] + 2 <= host.config.max_position_embeddings
    monkeypatch.setenv("CLVQ_DATA", str(folder))
    grid = load_grid(ROOT / "scripts" / "grids" / "world.yaml")
    assert len(grid.methods) >= 8 and len(grid.datasets["senses"].load("test")) == 100


@pytest.mark.simulation
def test_the_small_host_learns_its_world(tmp_path):
    checks = world.make_world(tmp_path / "small", SMALL, seed=5)
    assert checks["host_accuracy"] > 0.95 and checks["bag_of_words_accuracy"] < 0.6
    embeddings, lower, *_ = checks["probe"]
    assert lower["accuracy"] > 0.9 > embeddings["accuracy"]


# ----------------------------------------------------------------------------------------------------------- the score


def occurrences(rows, predicted=None):
    """From (text, word, sense, vote, code, is salient); words from 10 on have one sense."""
    text, word, sense, vote, code, salient = (np.array(column) for column in zip(*rows, strict=True))
    predicted = np.ones(len(text), dtype=int) if predicted is None else np.array(predicted)[text]
    return score.Occurrences(text, word, word < 10, sense, vote, 0 * text, code, salient.astype(bool), predicted)


def rows_of(word, senses, codes, text=None):
    places = range(len(senses)) if text is None else [text] * len(senses)
    return [(t, word, s, 0, c, False) for t, s, c in zip(places, senses, codes, strict=True)]


def test_ami_within_words_is_weighted_by_their_occurrences():
    # Word 0: codes are the senses, AMI 1 over four occurrences. Word 1: one code for both, AMI 0 over two.
    rows = rows_of(0, [0, 0, 1, 1], [5, 5, 6, 6]) + rows_of(1, [0, 1], [7, 7])
    # Neither words with one sense count, nor one that has only one of its senses here.
    rows += rows_of(10, [0, 0, 0], [5, 6, 7]) + rows_of(2, [1, 1, 1], [5, 6, 7])
    assert score.ami(occurrences(rows))["ami_within"] == pytest.approx(4 / 6)


def test_codes_of_words_tell_no_senses_and_codes_of_senses_need_not_tell_words():
    senses = rows_of(0, [0, 1, 0, 1], [0, 0, 0, 0]) + rows_of(1, [0, 1, 0, 1], [1, 1, 1, 1])
    both = score.ami(occurrences(senses))
    assert both["ami_within"] == pytest.approx(0) and 0 < both["ami"] < 1 and both["agreement"] == pytest.approx(0)
    # Two codes for the votes of all words are perfect within words, and not the senses of the words.
    votes = rows_of(0, [0, 1, 0, 1], [0, 1, 0, 1]) + rows_of(1, [0, 1, 0, 1], [0, 1, 0, 1])
    both = score.ami(occurrences(votes))
    assert both["ami_within"] == pytest.approx(1) and 0 < both["ami"] < 1
    assert both["agreement"] == pytest.approx(2 * both["ami"] / (1 + both["ami"]))
    exact = rows_of(0, [0, 1, 0, 1], [0, 1, 0, 1]) + rows_of(1, [0, 1, 0, 1], [2, 3, 2, 3])
    assert score.ami(occurrences(exact)) == dict.fromkeys(("agreement", "ami", "ami_within"), pytest.approx(1))


def test_purity_of_senses():
    # In each of four texts, two occurrences of sense 0 with code 5 and one of sense 1 with code 6.
    rows = [row for text in range(4) for row in rows_of(0, [0, 0, 1], [5, 5, 6], text)]
    figures = score.sense_purity(occurrences(rows))
    assert figures == {"purity": 1.0, "purity_word": pytest.approx(2 / 3), "purity_gain": 1.0}


def test_codes_that_occur_once_win_nothing():
    rows = [row for text in range(4) for row in rows_of(0, [0, 0, 1], [3 * text, 3 * text + 1, 3 * text + 2], text)]
    figures = score.sense_purity(occurrences(rows))
    assert figures["purity"] == figures["purity_word"] == pytest.approx(2 / 3) and figures["purity_gain"] == 0


def test_the_concept_behind_a_prediction():
    rows = [
        (0, 0, 0, 1, 5, True),  # votes for its prediction
        (0, 10, 0, 0, 5, False),  # the own text does not count
        (1, 0, 0, 1, 5, False),
        (1, 0, 0, 1, 6, False),  # the same sense with another code
        (2, 1, 0, -1, 5, True),  # votes against the prediction: nothing
    ]
    # Text 0: of the two tokens with code 5 elsewhere one votes for plus; of two with word and sense one has code 5.
    figures = score.decision(occurrences(rows))
    assert figures == {"precision": 0.25, "recall": 0.25, "f1": 0.25, "salient_votes": 0.5}
    # Were minus predicted of text 2: of the others with code 5 none votes for it, and its sense occurs nowhere else.
    figures = score.decision(occurrences(rows, predicted=[1, 1, -1]))
    assert figures == {"precision": 0.25, "recall": 0.25, "f1": 0.25, "salient_votes": 1.0}


def test_without_salience_there_is_no_decision():
    assert set(score.decision(occurrences(rows_of(0, [0, 1], [0, 1]))).values()) == {None}


@pytest.fixture
def table(made):
    """A table of the first ten test texts whose codes are the votes, plus one; the first voting word is salient."""
    lines = (made[0] / "truth" / "test.jsonl").read_text().splitlines()[:10]
    rows = [json.loads(line) for line in lines]
    table = made_table(
        [row["text"] for row in rows],
        [int(sum(row["votes"]) > 0) for row in rows],
        {},
        salient_positions=[int(np.flatnonzero(row["votes"])[0]) for row in rows],
        label_names=["minus", "plus"],
    )
    codes = [vote + 1 for row in rows for vote in row["votes"]]
    table.tokens = table.tokens.remove_columns("code").add_column("code", codes)
    return table, rows


def test_a_table_meets_its_truth(made, table):
    table, rows = table
    found = score.Truth(made[0]).occurrences(table)
    assert found.vote.tolist() == [vote for row in rows for vote in row["votes"]]
    assert found.sense.tolist() == [sense for row in rows for sense in row["senses"]]
    assert (found.code == found.vote + 1).all() and found.salient.sum() == 10
    assert found.predicted[found.salient].tolist() == [np.sign(sum(row["votes"])) for row in rows]
    # Codes that are the votes are the senses, given the word.
    assert score.ami(found)["ami_within"] == pytest.approx(1)


def test_predictions_are_read_by_name_and_may_be_missing(made, table):
    text = table[1][0]["text"]
    for names, prediction, sign in ((["minus", "plus"], 1, 1), (["plus", "minus"], 1, -1), (["minus", "plus"], -1, 0)):
        found = score.Truth(made[0]).occurrences(made_table([text], [prediction], {}, label_names=names))
        assert set(found.predicted.tolist()) == {sign}
    # The salience of a host that predicts nothing decides nothing.
    assert score.decision(replace(found, salient=np.arange(len(found.text)) == 0))["f1"] is None


def test_tables_of_another_world_are_refused(made, tmp_path):
    made_table(["nobody knows this"], [0], {}).save_to_disk(tmp_path / "table")
    with pytest.raises(ValueError, match="none of the worlds tiny: add theirs with --world"):
        score.score_paths([tmp_path / "table"], [made[0]])


def test_scores_of_folders_as_tables(made, table, tmp_path):
    for name in ("votes", "again"):
        table[0].save_to_disk(tmp_path / name)
    rows = score.score_paths([tmp_path / "votes", tmp_path / "again"], [made[0]])
    known = ["(word and sense)", "(vote)", "(topic)", "(word)", "(predicted label)"]
    assert [row["method"] for row in rows] == [*known, "votes", "again"]
    assert all(row["world"] == "tiny" and row["seed"] is None and row["cell"] is None for row in rows)
    (report,) = score.score_tables(rows)
    assert report.title == "Truth of the world tiny"
    within = {row[0]: row[report.header.index("AMI within the word (rank)")] for row in report.rows}
    # Those that are made from the truth have no rank.
    assert within["(vote)"] == within["(word and sense)"] == "1.000" and within["(word)"] == "0.000"
    assert within["votes"] == within["again"] == "1.000 (1.5)"
    with pytest.raises(ValueError, match="folders of one name"):
        score.score_paths([], [made[0], made[0]])


def test_metrics_that_rank_as_the_truth_does():
    truth = [0.1, 0.2, 0.3, 0.4, 0.5]
    rows = [
        {
            "world": name,
            "method": str(place),
            "seed": 0,
            **dict.fromkeys(score.TRUTH, value),
            "cell": made_cell(place, name),
        }
        for name in ("a", "b")
        for place, value in enumerate(truth)
    ]
    report = score.metric_table(rows)
    found = {row[0]: row[1] for row in report.rows}
    # The same order in both worlds; the reverse in both; and 1 and -1, which are 0 on average.
    assert found == {"table.good": "1.000", "table.bad": "-1.000", "table.moody": "0.000"}
    assert report.rows[-1][0] == "table.moody"
    # Of 5 methods: t = 3.182 with three degrees of freedom, and 3.182 / sqrt(3 + 3.182²) = 0.878.
    assert "stays below 0.88 in 95 % of cases" in report.note


def made_cell(place, name):
    figures = {
        "good": place**3,
        "bad": -place,
        "moody": place if name == "a" else -place,
        "constant": 1,
        "num_tokens": place,
    }
    return {
        "cell": {"host": "world", "dataset": "senses", "method": str(place), "seed": 0},
        "host": {"layers": [2, 4], "linear_explained_variance": 0.5},
        "first_seed": 0,
        "table": figures | {"good_low": place, "constant": 1, "num_tokens": place, "same": place**3},
        "seconds": {"fit": place},
    }

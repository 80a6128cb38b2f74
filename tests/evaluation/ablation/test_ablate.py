"""Ablation outcomes: what is removed, where, against what; and that nothing depends on batches or order."""

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset, Value
from helpers.evaluated_hosts import balanced_classifier, clvq_on_states
from transformers import AutoTokenizer

from clvq_hf import ActivationCache, ClusterConfig, ClusterModel, ablate_texts
from clvq_hf.evaluation.ablation.conditions import CONDITIONS, WORD_CONDITIONS
from clvq_hf.evaluation.ablation.outcomes import outcome_columns
from clvq_hf.evaluation.ablation.references import MemberMeans, fit_references
from clvq_hf.evaluation.ablation.words import fit_words
from clvq_hf.hosts.hooks import edit
from clvq_hf.hosts.readout import Readout, margins

NUM_TEXTS = 24
PINNED = Path(__file__).parents[2] / "fixtures" / "ablation_outcomes.json"


# For the whole file: whoever changes one of these works on a copy.
@pytest.fixture(scope="module")
def tokenizer(minilm_dir):
    return AutoTokenizer.from_pretrained(minilm_dir)


@pytest.fixture(scope="module")
def texts(all_texts):
    return all_texts.select(range(60))


@pytest.fixture(scope="module")
def host(tokenizer, texts):
    return balanced_classifier(tokenizer, texts["text"][:NUM_TEXTS])


@pytest.fixture(scope="module")
def model(host, tokenizer, texts):
    return clvq_on_states(host, tokenizer, texts["text"][:40])


@pytest.fixture(scope="module")
def salience(tokenizer, texts):
    """The middle token of each text is the salient one."""
    lengths = [len(ids) for ids in tokenizer(texts["text"][:NUM_TEXTS])["input_ids"]]
    return Dataset.from_dict(
        {
            "text_index": range(NUM_TEXTS),
            "scores": [[float(place == length // 2) for place in range(length)] for length in lengths],
            "salient_position": [length // 2 for length in lengths],
            "error": [0.0] * NUM_TEXTS,
        }
    )


@pytest.fixture(scope="module")
def table(model, host, tokenizer, texts, salience):
    return model.concept_table(host, tokenizer, texts.select(range(NUM_TEXTS)), salience=salience)


@pytest.fixture(scope="module")
def references(model, host, tokenizer, texts):
    return fit_references(model, host, tokenizer, texts.select(range(NUM_TEXTS, 60)))


@pytest.fixture(scope="module")
def setting(model, host, tokenizer, table):
    return model, host, tokenizer, table


@pytest.fixture(scope="module")
def outcome(setting, references):
    """All conditions in the model, at the positions of the code."""
    return ablate_texts(*setting, references=references, num_draws=3)


def summarise(outcome):
    """Per condition: number of rows, sums of counted columns (codes weighted by text), means of measured ones."""
    frame = outcome.to_pandas()
    frame["code_by_text"] = frame["code"] * (frame["text_id"] + 1) * (frame["draw"] + 1)
    summary = {}
    for condition, rows in frame.groupby("condition"):
        counted = [int(rows[name].sum()) for name in ("code_by_text", "num_positions", "matched", "prediction")]
        measured = [float(rows[name].mean()) for name in ("margin_plain", "margin", "kl", "removed_norm")]
        summary[condition] = [len(rows), *counted, *measured]
    return summary


def rows_of(outcome, condition, draw=0):
    frame = outcome.to_pandas()
    chosen = frame[(frame["condition"] == condition) & (frame["draw"] == draw)]
    return chosen.sort_values("text_id").reset_index(drop=True)


class TestPinned:
    """Figures of small runs that must not change: every condition draws the same, however it is written."""

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("name", "arguments"),
        [
            ("code", {}),
            ("all-swap", {"positions": "all", "how": "swap", "batch_size": 7}),
            ("probe", {"protocol": "probe"}),
        ],
    )
    def test_outcomes(self, setting, references, name, arguments):
        pinned = json.loads(PINNED.read_text())[name]
        summary = summarise(ablate_texts(*setting, references=references, num_draws=2, **arguments))
        assert summary.keys() == pinned.keys()
        for condition, figures in summary.items():
            assert figures == pytest.approx(pinned[condition], rel=1e-3, abs=1e-5), condition


class TestInModel:
    @pytest.mark.slow
    @pytest.mark.parametrize("how", ["project", "swap"])
    @pytest.mark.parametrize("positions", ["code", "all", "cls", "last"])
    def test_salient_is_what_the_model_ablates(self, setting, references, positions, how):
        model, host, tokenizer, table = setting
        outcome = ablate_texts(*setting, positions=positions, how=how, references=references, conditions=("salient",))
        members = references.members
        for row in rows_of(outcome, "salient").itertuples():
            inputs = tokenizer(table.texts[row.text_id]["text"], return_tensors="pt")
            plain = host(**inputs, output_hidden_states=True)
            own, plain = plain.hidden_states[1][0, table.texts[row.text_id]["salient_position"]], plain.logits
            means = {"mean": members.mean, "member_mean": members.means[row.code]} if how == "swap" else {}
            if how == "swap" and members.counts[row.code] == 0:
                means["member_mean"] = own.detach()
            with model.ablate(host, row.code, positions=positions, how=how, **means):
                ablated = host(**inputs).logits
            prediction = plain.argmax(-1)
            assert row.prediction_plain == int(prediction)
            assert row.margin_plain == pytest.approx(margins(plain, prediction).item(), abs=1e-4)
            assert row.margin == pytest.approx(margins(ablated, prediction).item(), abs=1e-4)
            codes = table.text(row.text_id)["code"]
            expected = {"code": (codes == row.code).sum(), "all": len(codes)}.get(positions, 1)
            assert row.num_positions == expected

    @pytest.mark.slow
    def test_has_every_condition(self, outcome):
        assert set(outcome["condition"]) == set(CONDITIONS)
        counts = outcome.to_pandas().groupby("condition")["draw"].max() + 1
        assert counts["random_direction"] == counts["other_text_same"] == 3
        assert counts["leace"] == counts["salient"] == 1

    def test_without_references_the_class_conditions_are_left_out(self, setting):
        assert ({"class_ceiling", "class_residual", "leace"} | WORD_CONDITIONS).isdisjoint(
            ablate_texts(*setting, num_draws=1)["condition"]
        )

    @pytest.mark.parametrize("positions", ["code", "all"])
    def test_a_random_direction_removes_the_same_norm(self, setting, positions):
        outcome = ablate_texts(*setting, positions=positions, conditions=("salient", "random_direction"), num_draws=2)
        salient = rows_of(outcome, "salient")
        for draw in range(2):
            random = rows_of(outcome, "random_direction", draw)
            np.testing.assert_allclose(random["removed_norm"], salient["removed_norm"], rtol=1e-4)
            assert (random["num_positions"] == salient["num_positions"]).all()
        first, second = (rows_of(outcome, "random_direction", draw)["margin"] for draw in range(2))
        assert (first != second).any(), "each draw is another direction"

    @pytest.mark.slow
    def test_another_code_of_the_text_at_its_own_positions(self, setting):
        model, host, tokenizer, table = setting
        outcome = ablate_texts(*setting, conditions=("salient", "other_code")).to_pandas()
        others = outcome[outcome["condition"] == "other_code"]
        own = outcome[outcome["condition"] == "salient"].set_index("text_id")
        assert len(others) >= len(own)
        for row in others.itertuples():
            codes = table.text(row.text_id)["code"]
            assert row.code != own["code"][row.text_id]
            assert row.num_positions == (codes == row.code).sum()
            if row.matched:
                assert 1 / 1.5 <= row.num_positions / own["num_positions"][row.text_id] <= 1.5
                assert 1 / 1.25 - 1e-4 <= row.removed_norm / own["removed_norm"][row.text_id] <= 1.25 + 1e-4
            else:
                assert (others["text_id"] == row.text_id).sum() == 1, "without a match there is the nearest alone"
        row = others.iloc[0]
        inputs = tokenizer(table.texts[int(row.text_id)]["text"], return_tensors="pt")
        with model.ablate(host, int(row.code)):
            logits = host(**inputs).logits
        assert row.margin == pytest.approx(margins(logits, torch.tensor([row.prediction_plain])).item(), abs=1e-4)

    def test_codes_of_other_texts_have_the_prediction_they_should(self, outcome):
        outcome = outcome.to_pandas()
        own = outcome[outcome["condition"] == "salient"]
        by_prediction = own.groupby("prediction_plain")["code"].agg(set)
        for row in outcome[outcome["condition"] == "other_text_same"].itertuples():
            assert row.code in by_prediction[row.prediction_plain]
        for row in outcome[outcome["condition"] == "other_text_opposite"].itertuples():
            assert row.code in by_prediction[1 - row.prediction_plain]
        codes = own.set_index("text_id")["code"]
        for condition in ("other_text_same", "other_text_opposite", "random_active_code"):
            rows = outcome[outcome["condition"] == condition]
            assert (rows["code"] != rows["text_id"].map(codes)).all(), "the same concept is no control"

    def test_the_residual_leaves_the_class_directions_alone(self, setting, references):
        """Two classes that differ along one axis: what is orthogonal to it removes nothing of it."""
        names = ("salient", "class_ceiling", "class_residual")
        outcome = ablate_texts(*setting, references=references, positions="all", conditions=names)
        residual, salient = rows_of(outcome, "class_residual"), rows_of(outcome, "salient")
        assert (residual["removed_norm"] <= salient["removed_norm"] + 1e-3).all()
        ceiling = rows_of(outcome, "class_ceiling")
        assert (ceiling["code"] == -1).all() and (ceiling["removed_norm"] > 0).all()

    def test_words_and_what_a_concept_says_beyond_them(self, setting, references, outcome):
        """By hand: off each token's mean state, and off the part of the code beside it, where that mean is known."""
        model, host, tokenizer, table = setting
        words = references.words
        means = dict(zip(words.ids.tolist(), words.means, strict=True))
        counts = dict(zip(words.ids.tolist(), words.counts.tolist(), strict=True))
        ceiling, residual = rows_of(outcome, "word_ceiling"), rows_of(outcome, "word_residual")
        assert (ceiling["code"] == -1).all()
        checked, num_rare = 0, 0
        for row in rows_of(outcome, "salient").itertuples():
            tokens = table.text(row.text_id)
            places = np.flatnonzero(tokens["code"] == row.code)
            inputs = tokenizer(table.texts[row.text_id]["text"], return_tensors="pt")
            ids = inputs["input_ids"][0].tolist()
            known = [place for place in places if counts.get(ids[place], 0) >= 10]
            num_rare += len(places) - len(known)
            for frame in (ceiling, residual):
                assert frame[frame["text_id"] == row.text_id]["num_positions"].tolist() == [len(known)][: len(known)]
            if not known or checked == 6:
                continue
            checked += 1
            code = F.normalize(model.codebook[row.code].detach(), dim=-1)

            def changed(states, beyond, known=known, ids=ids, code=code):
                states = states.clone()
                for place in known:
                    word = F.normalize(means[ids[place]], dim=-1)
                    removed = F.normalize(code - (code @ word) * word, dim=-1) if beyond else word
                    states[0, place] -= (states[0, place] @ removed) * removed
                return states

            for frame, beyond in ((ceiling, False), (residual, True)):
                with edit(host, 1, lambda states, beyond=beyond, changed=changed: changed(states, beyond)):
                    logits = host(**inputs).logits
                expected = margins(logits, torch.tensor([row.prediction_plain])).item()
                found = frame[frame["text_id"] == row.text_id]
                assert found["margin"].item() == pytest.approx(expected, abs=1e-4)
        assert checked == 6 and num_rare > 20

    def test_rare_words_stay_and_texts_without_others_are_left_out(self, setting, references):
        """With the most frequent type alone known, only its positions change."""
        *_, table = setting
        commonest = references.words.ids[references.words.counts.argmax()]
        rare = torch.where(references.words.ids == commonest, 10, 9)
        words = dataclasses.replace(references.words, counts=rare)
        outcome = ablate_texts(
            *setting,
            references=dataclasses.replace(references, words=words),
            positions="all",
            conditions=("salient", "word_ceiling", "word_residual", "word_random"),
            num_draws=2,
        )
        expected = {}
        for text in rows_of(outcome, "salient")["text_id"]:
            if (count := int((table.text(text)["token_id"] == int(commonest)).sum())) > 0:
                expected[text] = count
        assert 0 < len(expected) < NUM_TEXTS
        for condition, draw in (("word_ceiling", 0), ("word_residual", 0), ("word_random", 0), ("word_random", 1)):
            rows = rows_of(outcome, condition, draw)
            assert dict(zip(rows["text_id"], rows["num_positions"], strict=True)) == expected

    def test_a_random_direction_beside_the_word(self, setting, references, outcome):
        """As far as the residual moves each token, and in several draws; the next test is of its direction."""
        residual = rows_of(outcome, "word_residual")
        draws = [rows_of(outcome, "word_random", draw) for draw in range(3)]
        for random in draws:
            assert (random["code"] == -1).all()
            assert random[["text_id", "num_positions"]].equals(residual[["text_id", "num_positions"]])
            np.testing.assert_allclose(random["removed_norm"], residual["removed_norm"], rtol=1e-3)
        assert (draws[0]["margin"] != draws[1]["margin"]).any()

    @pytest.mark.slow
    def test_concepts_that_are_words_say_nothing_beyond_them(self, host, tokenizer, texts, salience, references):
        """The words' mean states as a codebook: what is orthogonal to the word is nothing."""
        often = dataclasses.replace(references.words, counts=references.words.counts.clamp(min=10))
        references = dataclasses.replace(references, words=often)
        model = ClusterModel(
            ClusterConfig.from_host(host, lower_layer=1, upper_layer=3, codebook_size=len(references.words.ids))
        )
        with torch.no_grad():
            model.centroids.vectors.copy_(references.words.means)
            model.centroids.mean.copy_(references.mean)
            model.centroids.initialized.fill_(True)
        table = model.concept_table(host, tokenizer, texts.select(range(NUM_TEXTS)), salience=salience)
        names = ("salient", "word_residual")
        outcome = ablate_texts(model, host, tokenizer, table, references=references, conditions=names)
        salient, residual = rows_of(outcome, "salient"), rows_of(outcome, "word_residual")
        checked = 0
        salient = salient[salient["text_id"].isin(residual["text_id"])]
        for row, own in zip(residual.itertuples(), salient.itertuples(), strict=True):
            tokens = table.text(row.text_id)
            if (tokens["token_id"][tokens["code"] == row.code] == int(references.words.ids[row.code])).all():
                assert row.removed_norm < 1e-3 * own.removed_norm
                checked += 1
        assert checked >= 5

    @pytest.mark.slow
    def test_neither_batch_size_nor_other_texts_matter(self, setting):
        one = ablate_texts(*setting, num_draws=2, batch_size=1).to_pandas()
        many = ablate_texts(*setting, num_draws=2, batch_size=7).to_pandas()
        key = ["text_id", "condition", "draw"]
        one, many = (frame.sort_values(key).reset_index(drop=True) for frame in (one, many))
        assert one[[*key, "code", "num_positions", "matched"]].equals(many[[*key, "code", "num_positions", "matched"]])
        np.testing.assert_allclose(one["margin"], many["margin"], atol=1e-4)
        np.testing.assert_allclose(one["removed_norm"], many["removed_norm"], rtol=1e-3)

    def test_several_directions(self, setting, outcome):
        one = rows_of(outcome, "salient")
        three = rows_of(ablate_texts(*setting, conditions=("salient",), k=3), "salient")
        assert (three["removed_norm"] >= one["removed_norm"] - 1e-4).all()

    @pytest.mark.slow
    @pytest.mark.parametrize("positions", ["code", "all"])
    def test_attention_sinks_stay_as_in_the_model(
        self, make_model, causal_host, tokenizer, texts, salience, positions
    ):
        model = make_model(is_causal=True).eval()
        model.quantizer.set_codebook(torch.randn(12, 32, generator=torch.Generator().manual_seed(0)) * 0.02)
        words = Readout.of(causal_host, tokenizer, label_words=["bad", "good"])
        with edit(causal_host, 0, lambda states: torch.cat([500 * states[:, :1], states[:, 1:]], dim=1)):
            table = model.concept_table(causal_host, tokenizer, texts.select(range(NUM_TEXTS)), salience=salience)
            outcome = ablate_texts(
                model, causal_host, tokenizer, table, positions=positions, readout=words, conditions=("salient",)
            )
            for row in rows_of(outcome, "salient").itertuples():
                ids = tokenizer(table.texts[row.text_id]["text"], return_tensors="pt")["input_ids"]
                with torch.no_grad(), model.ablate(causal_host, row.code, positions=positions):
                    ablated = words(causal_host(ids), torch.ones_like(ids))
                margin = margins(ablated, torch.tensor([row.prediction_plain])).item()
                assert row.margin == pytest.approx(margin, abs=1e-4)
                codes = table.text(row.text_id)["code"][1:]
                assert row.num_positions == {"code": (codes == row.code).sum(), "all": len(codes)}[positions]

    @pytest.mark.slow
    def test_a_causal_language_model(self, make_model, causal_host, tokenizer, texts, salience):
        model = make_model(is_causal=True).eval()
        model.quantizer.set_codebook(torch.randn(12, 32) * 0.02)
        some = texts.select(range(NUM_TEXTS))
        table = model.concept_table(causal_host, tokenizer, some, salience=salience)
        outcome = ablate_texts(model, causal_host, tokenizer, table, conditions=("salient", "other_code"), num_draws=1)
        row = rows_of(outcome, "salient").iloc[0]
        logits = causal_host(tokenizer(some[0]["text"], return_tensors="pt")["input_ids"]).logits[:, -1].detach()
        assert row.prediction_plain == int(logits.argmax())
        assert row.probabilities.size == 0 and row.label == -1
        words = Readout.of(causal_host, tokenizer, label_words=["bad", "good"])
        outcome = ablate_texts(model, causal_host, tokenizer, table, readout=words, conditions=("salient",))
        row = rows_of(outcome, "salient").iloc[0]
        pair = logits[0, tokenizer.convert_tokens_to_ids(["bad", "good"])]
        assert row.prediction_plain == int(pair.argmax())
        assert row.margin_plain == pytest.approx(abs(float(pair[0] - pair[1])), abs=1e-5)
        assert row.label == some[0]["label"]

    def test_repeated_texts_count_once(self, model, host, tokenizer, texts, salience):
        doubled = [*range(6), *range(6)]
        table = model.concept_table(
            host,
            tokenizer,
            texts.select(doubled),
            salience=salience.select(doubled).remove_columns("text_index").add_column("text_index", range(12)),
        )
        outcome = ablate_texts(model, host, tokenizer, table, conditions=("salient",))
        assert set(outcome["text_id"]) == set(range(6))


class TestOutcome:
    def test_by_hand(self):
        plain = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]])
        changed = torch.tensor([[0.0, 0.0, 1.0], [0.0, 3.0, 0.0]])
        columns = outcome_columns(plain, changed, np.array([1, -1]))
        assert columns["prediction_plain"] == [0, 1] and columns["prediction"] == [2, 1]
        assert columns["margin_plain"] == [1.0, 3.0] and columns["margin"] == [-1.0, 3.0]
        p, q = plain[0].softmax(-1).double(), changed[0].softmax(-1).double()
        assert columns["kl"][0] == pytest.approx(float((p * (p / q).log()).sum()), abs=1e-6)
        assert columns["kl"][1] == 0
        assert columns["gold_probability"] == pytest.approx([float(q[1]), -1.0])
        assert columns["probability"] == pytest.approx([float(q[0]), float(changed[1].softmax(-1)[1])])


class TestReferences:
    def test_mean_state_of_each_codes_tokens(self, model, host, tokenizer, texts, references):
        sums, counts, total = torch.zeros(model.config.codebook_size, 32), torch.zeros(model.config.codebook_size), []
        for text in texts.select(range(NUM_TEXTS, 60))["text"]:
            encoded = tokenizer(text, return_tensors="pt")
            states = host(**encoded, output_hidden_states=True).hidden_states[1].detach()
            for code, state in zip(model.encode(states)[0, 1:-1], states[0, 1:-1], strict=True):
                sums[code] += state
                counts[code] += 1
                total.append(state)
        members = references.members
        assert torch.equal(members.counts, counts.long())
        used = counts > 0
        torch.testing.assert_close(members.means[used], sums[used] / counts[used, None], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(members.mean, torch.stack(total).mean(0), atol=1e-4, rtol=1e-4)
        assert not torch.allclose(members.means[used], model.codebook[used], atol=0.1), "which lies behind an encoder"

    def test_a_code_without_tokens_has_the_state_at_hand(self):
        members = MemberMeans(torch.tensor([[1.0], [0.0]]), torch.tensor([2, 0]), torch.tensor([0.5]), "")
        assert members.states(torch.tensor([0, 1]), torch.tensor([[8.0], [9.0]])).tolist() == [[1.0], [9.0]]

    def test_references_of_other_codes_are_refused_for_swaps(self, setting, references):
        of_others = dataclasses.replace(references.members, fingerprint="another")
        references = dataclasses.replace(references, members=of_others)
        with pytest.raises(ValueError, match="another model's codes"):
            ablate_texts(*setting, references=references, how="swap", conditions=("salient",))

    def test_without_references_a_swap_goes_by_the_texts_at_hand(self, setting, host, tokenizer, texts):
        """The same as with references from these texts, without the check that forbids them."""
        model = setting[0]
        of_these = fit_references(model, host, tokenizer, texts.select(range(NUM_TEXTS)))
        of_these = dataclasses.replace(of_these, text_hashes=frozenset())
        expected, found = (
            rows_of(ablate_texts(*setting, references=each, how="swap", conditions=("salient",)), "salient")
            for each in (of_these, None)
        )
        np.testing.assert_allclose(found["margin"], expected["margin"], atol=1e-4)

    def test_means_and_class_directions(self, model, host, tokenizer, texts, references):
        from clvq_hf.models.projections import orthonormal_rows

        states, labels = [], []
        for row in texts.select(range(NUM_TEXTS, 60)):
            encoded = tokenizer(row["text"], return_tensors="pt")
            found = host(**encoded, output_hidden_states=True).hidden_states[1][0, 1:-1].detach().double()
            states.append(found)
            labels += [row["label"]] * len(found)
        states, labels = torch.cat(states), torch.tensor(labels)
        torch.testing.assert_close(references.mean, states.mean(0).float(), atol=1e-5, rtol=1e-4)
        means = torch.stack([states[labels == label].mean(0) for label in (0, 1)])
        # Two classes differ along one direction; the second row of the basis is zero.
        expected = orthonormal_rows((means - states.mean(0))[:1])
        overlap = (references.class_basis @ expected.T).abs()
        assert overlap.max() == pytest.approx(1.0, abs=1e-4)
        assert (references.class_basis.norm(dim=-1) > 0.5).sum() == 1

    def test_leace_leaves_no_linear_trace_of_the_class(self, host, tokenizer, texts, references):
        states, labels = [], []
        for row in texts.select(range(NUM_TEXTS, 60)):
            encoded = tokenizer(row["text"], return_tensors="pt")
            states.append(host(**encoded, output_hidden_states=True).hidden_states[1][0, 1:-1].detach().double())
            labels += [row["label"]] * len(states[-1])
        erased, labels = references.eraser(torch.cat(states)), torch.tensor(labels)
        before = torch.cat(states)
        difference = [x[labels == 1].mean(0) - x[labels == 0].mean(0) for x in (before, erased)]
        assert difference[1].norm() < 0.05 * difference[0].norm()

    def test_mean_state_of_each_word(self, host, tokenizer, texts, references):
        texts = texts.select(range(NUM_TEXTS, 60))
        encoded = tokenizer(texts["text"][:], padding=True, return_tensors="pt")
        states = host(**encoded, output_hidden_states=True).hidden_states[1].detach()
        word = tokenizer.convert_tokens_to_ids("the")
        of_word = states[encoded["input_ids"] == word]
        words = references.words
        place = words.ids.tolist().index(word)
        assert torch.allclose(words.means[place], of_word.mean(0), atol=1e-5)
        assert words.counts[place] == len(of_word) >= 10
        rare = int(words.ids[words.counts == 9][0])
        unknown = max(words.ids.tolist()) + 1
        directions, known = words.directions(torch.tensor([[word, rare, unknown, tokenizer.cls_token_id]]))
        assert torch.allclose(directions[0, 0], F.normalize(of_word.mean(0), dim=-1), atol=1e-5)
        assert known.tolist() == [[True, False, False, False]], "special tokens do not count, nine times are too few"

    def test_words_of_more_texts(self, model, host, tokenizer, texts, table, setting):
        few, more = texts.select(range(NUM_TEXTS, 40)), texts.select(range(NUM_TEXTS, 60))
        words = fit_words(host, tokenizer, more, 1)
        references = fit_references(model, host, tokenizer, few, words=words)
        alone = fit_references(model, host, tokenizer, more)
        assert torch.equal(references.words.ids, alone.words.ids)
        assert torch.equal(references.words.counts, alone.words.counts)
        torch.testing.assert_close(references.words.means, alone.words.means)
        assert references.text_hashes == alone.text_hashes
        assert torch.equal(references.class_basis, fit_references(model, host, tokenizer, few).class_basis)
        leaking = fit_words(host, tokenizer, texts, 1)
        with pytest.raises(ValueError, match="24 of the table's 24 texts are among the training texts"):
            ablate_texts(*setting, references=fit_references(model, host, tokenizer, few, words=leaking))
        with pytest.raises(ValueError, match="lower layer 2, not 1"):
            fit_references(model, host, tokenizer, few, words=fit_words(host, tokenizer, few, 2))

    def test_classes_are_the_hosts(self, model, host, tokenizer, texts):
        texts = texts.select(range(12))
        words = texts.cast_column("label", Value("string"))
        words = words.map(lambda row: {"label": ["negative", "positive"][int(row["label"])]})
        host.config.id2label = {0: "positive", 1: "negative"}
        of_words, of_classes = (fit_references(model, host, tokenizer, each) for each in (words, texts))
        assert torch.equal(of_words.class_basis, of_classes.class_basis)
        with pytest.raises(ValueError, match=r"are 0, 4; the host's classes are 0 \(positive\), 1 \(negative\)"):
            fit_references(model, host, tokenizer, Dataset.from_dict({"text": ["a", "b"], "label": [0, 4]}))

    def test_one_label_only(self, model, host, tokenizer, texts):
        one = texts.filter(lambda row: row["label"] == 1)
        with pytest.raises(ValueError, match="one label"):
            fit_references(model, host, tokenizer, one)

    def test_texts_without_labels(self, model, host, tokenizer, texts):
        references = fit_references(model, host, tokenizer, texts.remove_columns("label"))
        assert references.class_basis is None and references.eraser is None
        assert len(references.words.ids) == len(references.words.means) > 50


@pytest.mark.slow
class TestProbe:
    def test_conditions_and_folds(self, setting):
        outcome = ablate_texts(*setting, protocol="probe", num_draws=2)
        assert set(outcome["condition"]) == set(CONDITIONS) - WORD_CONDITIONS
        salient = rows_of(outcome, "salient")
        assert salient["text_id"].tolist() == list(range(NUM_TEXTS)), "every text is held out once"
        assert not any(outcome["matched"])
        random = rows_of(outcome, "random_direction")
        np.testing.assert_allclose(random["removed_norm"], salient["removed_norm"], rtol=1e-3)

    def test_every_method_is_probed_on_the_same_representation(
        self, make_model, make_sparse, fit, causal_host, tokenizer, texts, salience
    ):
        plain = []
        for model in (make_model(is_causal=True), make_sparse()):  # whose config does not tell
            fit(model, causal_host, tokenizer, texts)
            table = model.concept_table(causal_host, tokenizer, texts.select(range(NUM_TEXTS)), salience=salience)
            outcome = ablate_texts(model, causal_host, tokenizer, table, protocol="probe", num_draws=1)
            plain.append(rows_of(outcome, "salient")["margin_plain"].tolist())
        assert plain[0] == plain[1]

    def test_the_probe_tells_what_the_representation_holds(self, model, host, tokenizer, texts):
        """The label is which side of the median the first token's state lies on, along its main axis."""
        encoded = tokenizer(texts["text"][:], padding=True, return_tensors="pt")
        first = host(**encoded, output_hidden_states=True).hidden_states[1][:, 0].detach()
        along = (first - first.mean(0)) @ torch.linalg.svd(first - first.mean(0), full_matrices=False).Vh[0]
        labelled = texts.remove_columns("label").add_column("label", (along > along.median()).long().tolist())
        lengths = encoded["attention_mask"].sum(-1).tolist()
        salience = Dataset.from_dict(
            {
                "text_index": range(len(texts)),
                "scores": [[0.0] * length for length in lengths],
                "salient_position": [1] * len(texts),
                "error": [0.0] * len(texts),
            }
        )
        table = model.concept_table(host, tokenizer, labelled, salience=salience)
        plain, again = (
            rows_of(
                ablate_texts(model, host, tokenizer, table, protocol="probe", num_draws=1, batch_size=size), "salient"
            )
            for size in (32, 5)
        )
        assert (plain["prediction_plain"] == plain["label"]).mean() > 0.8
        np.testing.assert_allclose(plain["margin_plain"], again["margin_plain"], rtol=1e-2, atol=1e-2)

    def test_one_label_only(self, model, host, tokenizer, texts, salience):
        some = texts.select(range(NUM_TEXTS)).remove_columns("label").add_column("label", [1] * NUM_TEXTS)
        table = model.concept_table(host, tokenizer, some, salience=salience)
        with pytest.raises(ValueError, match="at least two labels"):
            ablate_texts(model, host, tokenizer, table, protocol="probe")


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"protocol": "magic"}, "protocol must be one of"),
            ({"positions": "first"}, "positions must be one of"),
            ({"how": "delete"}, "how must be one of"),
            ({"num_draws": 0}, "num_draws"),
        ],
    )
    def test_unknown_arguments(self, setting, arguments, message):
        with pytest.raises(ValueError, match=message):
            ablate_texts(*setting, **arguments)

    def test_a_table_without_salience(self, model, host, tokenizer, texts):
        table = model.concept_table(host, tokenizer, texts.select(range(4)))
        with pytest.raises(ValueError, match="salient_tokens"):
            ablate_texts(model, host, tokenizer, table)

    def test_a_table_of_another_model(self, setting, make_model):
        _, *rest = setting
        with pytest.raises(ValueError, match="another model"):
            ablate_texts(make_model(seed=1), *rest)

    def test_texts_that_the_references_were_trained_on(self, setting, model, host, tokenizer, texts):
        references = fit_references(model, host, tokenizer, texts)
        with pytest.raises(ValueError, match="among the training texts"):
            ablate_texts(*setting, references=references)

    def test_a_tokenizer_that_splits_otherwise(self, setting):
        model, host, tokenizer, table = setting
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.add_tokens(["film", "movie", "the"])
        with pytest.raises(ValueError, match="splits the texts differently"):
            ablate_texts(model, host, tokenizer, table)


class TestIdentity:
    @pytest.fixture
    def retrained(self, host):
        other = copy.deepcopy(host)
        with torch.no_grad():
            other.bert.encoder.layer[3].output.dense.weight *= 1.01
        return other

    def test_a_table_of_another_host(self, model, retrained, tokenizer, table):
        with pytest.raises(ValueError, match=r"concept table is of something else: host .*weights"):
            ablate_texts(model, retrained, tokenizer, table)

    @pytest.mark.slow
    def test_references_of_another_host_or_layer(self, model, host, retrained, tokenizer, texts, table, make_model):
        few = texts.select(range(NUM_TEXTS, 40))
        of_another = fit_references(model, retrained, tokenizer, few)
        with pytest.raises(ValueError, match=r"references is of something else: host .*weights"):
            ablate_texts(model, host, tokenizer, table, references=of_another)
        upper = fit_references(make_model(lower_layer=2), host, tokenizer, few)
        with pytest.raises(ValueError, match="something else: lower layer 2, not 1"):
            ablate_texts(model, host, tokenizer, table, references=upper)

    def test_a_cache_of_another_host(self, model, host, retrained, tokenizer, texts, tmp_path):
        few = texts.select(range(8))
        cache = ActivationCache.build(tmp_path, retrained, tokenizer, few, lower_layer=1, upper_layer=3)
        with pytest.raises(ValueError, match="something else: host"):
            fit_references(model, host, tokenizer, few, cache=cache)

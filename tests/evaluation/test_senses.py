"""The sense test: real occurrences, exchanges of a made world by hand, and the figures."""

import numpy as np
import pytest
import torch
from datasets import Dataset

from clvq_hf.evaluation import senses
from clvq_hf.evaluation.ablation.references import fit_references
from clvq_hf.evaluation.occurrences import MAX_OCCURRENCES, OccurrenceDraw, Occurrences
from clvq_hf.evaluation.senses import exchange_senses, sense_figures
from clvq_hf.hosts import hooks
from clvq_hf.hosts.readout import Readout


class TestOccurrences:
    def test_frequent_words_only_and_at_most_as_many_of_each(self):
        draw = OccurrenceDraw()
        generator = torch.Generator().manual_seed(0)
        ids = torch.cat([torch.full((19,), 3), torch.full((20,), 5), torch.full((5_000,), 8)])
        ids = ids[torch.randperm(len(ids), generator=generator)]
        for part in torch.arange(len(ids)).split(700):  # what is drawn is thinned out on the way
            draw.add(ids[part], part * 10, part[:, None].expand(-1, 2))
        draw.add(ids[:0], ids[:0], torch.zeros(0, 2))
        found = draw.occurrences()
        assert found.ids.bincount().tolist() == [0, 0, 0, 0, 0, 20, 0, 0, MAX_OCCURRENCES]
        assert torch.equal(found.codes, found.states[:, 0].long() * 10), "codes stay with their states"
        assert torch.equal(ids[found.states[:, 0].long()], found.ids)
        assert found.states[found.of_word(8), 0].mean() == pytest.approx(2_500, rel=0.2), "not only the first ones"
        assert found.of_word(3).start == found.of_word(3).stop
        assert found.of_word(5) == slice(0, 20)

    def test_nothing(self):
        assert len(OccurrenceDraw().occurrences().ids) == 0


def test_changes_of_a_text_by_hand():
    # Word 4 has code 1 at states 0 to 5, and code 2 at 10 to 16.
    states = torch.tensor([*range(6), *range(10, 17)]).float()[:, None]
    occurrences = Occurrences(torch.full((13,), 4), torch.tensor([1] * 6 + [2] * 7), states)
    words, codes = np.array([0, 4, 9, 4]), np.array([0, 1, 1, 3])
    seen = set()
    for seed in range(30):
        first, second = senses._changes_of_text(0, np.array([1, 2, 3]), words, codes, occurrences, 4, seed)
        assert (first["position"], second["position"]) == (1, 3), "word 9 is unknown"
        assert first["same"].item() <= 5 and first["has_same"]
        seen.add(first["other_code"])
        if first["other_code"] == 2:
            # Without the state that is put in its place: (91 - own) ÷ 6, less the mean of code 1.
            expected = (91 - first["other"].item()) / 6 - 2.5
            assert first["has_exchange"] and first["exchange"].item() == pytest.approx(expected)
        else:
            assert not first["has_exchange"] and first["exchange"].item() == 0
        # No occurrence has its code, so that nothing is known of it.
        assert not second["has_exchange"] and not second["has_same"]
    assert seen == {1, 2}


def test_a_rare_code_is_not_exchanged():
    states = torch.arange(24.0)[:, None]
    for rare, known in ((5, False), (6, True)):  # one less, since the state in its place is not in the mean
        codes = torch.tensor([1] * (24 - rare) + [2] * rare)
        occurrences = Occurrences(torch.full((24,), 4), codes, states)
        for seed in range(20):
            [change] = senses._changes_of_text(0, np.array([0]), np.array([4]), np.array([1]), occurrences, 1, seed)
            assert change["has_exchange"] == (known and change["other_code"] == 2)


def test_draws_do_not_depend_on_codes():
    states = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([2] * 20 + [4] * 20)
    words = np.array([2, 4] * 6)
    drawn = []
    for codes in (torch.zeros(40).long(), torch.arange(40) % 3):
        own = codes[:12].numpy()
        changes = senses._changes_of_text(7, np.arange(12), words, own, Occurrences(ids, codes, states), 5, seed=1)
        drawn.append([(change["position"], change["other"].tolist()) for change in changes])
    assert drawn[0] == drawn[1] and len(drawn[0]) == 5


class TestChange:
    def test_of_classes(self):
        plain, logits = torch.tensor([[2.0, 0.0]]).double(), torch.tensor([[0.0, 1.0]]).double()
        # Log-odds move by 3: each class by ± 1.5.
        change = senses._change(plain, logits, Readout("classification"))
        assert change.square().sum().item() == pytest.approx(1.5**2)

    def test_of_a_number(self):
        plain, logits = torch.tensor([[0.0, 5.0]]).double(), torch.tensor([[0.0, 1.0]]).double()
        change = senses._change(plain, logits, Readout("regression", centre=0.0))
        assert change.square().sum().item() == pytest.approx(2.0**2)

    def test_of_a_vocabulary_by_probability(self):
        plain = torch.zeros(1, 2_000).double()
        plain[0, :2] = 50  # all others are impossible
        logits = plain.clone()
        logits[0, 0] += 0.2
        logits[0, 5:] += 7  # still impossible
        change = senses._change(plain, logits, Readout("next_token"))
        assert change.square().sum().item() == pytest.approx(0.1**2)


class TestFigures:
    def test_by_hand(self):
        rows = {
            "text_id": [0, 0, 1, 2],
            "exchanged": [True, False, True, False],
            "exchange": [4.0, 0.0, 25.0, 0.0],
            "other": [4.0, 1.0, 9.0, 4.0],
            "same": [1.0, 1.0, 16.0, 0.0],
            "exchange_other": [2.0, 0.0, 15.0, 0.0],
            "exchange_same": [0.5, 0.0, -8.0, 0.0],
        }
        figures = sense_figures(Dataset.from_dict(rows))
        # Towards the other occurrence 2 ÷ 2, and 15 ÷ 3, which counts as 3. Along the same code 0.5 ÷ 2 (of both
        # lengths the longer), and -8 ÷ 4. Lengths 2, 1, 3, 2.
        assert figures["sense_share"] == pytest.approx((0.75 + 5) / 8)
        assert figures["control_share"] == pytest.approx((0.25 - 2) / 8)
        assert figures["exchanged_share"] == pytest.approx((0.75 + 5) / 5)
        # Without each text; the jackknife's standard error times t with 2 degrees of freedom.
        without = np.array([5 / 5, 0.75 / 5, 5.75 / 6])
        half_width = 4.302653 * np.sqrt(2 * without.var())
        assert figures["sense_share_low"] == pytest.approx(5.75 / 8 - half_width)
        assert figures["sense_share_high"] == pytest.approx(5.75 / 8 + half_width)
        assert (figures["exchange_effect"], figures["other_effect"], figures["same_effect"]) == (3.5, 2.5, 2.5)
        assert (figures["num_tokens"], figures["num_exchanged"], figures["num_texts"]) == (4, 2, 3)

    def test_codes_that_say_everything(self):
        # Another context changes the answer as its code does, and one with the same code changes nothing.
        change = np.random.default_rng(0).normal(size=40) ** 2
        same = {"same": np.zeros(40), "exchange_same": np.zeros(40)}
        rows = {"text_id": range(40), "exchanged": [True] * 40, "exchange": change, "other": change, **same}
        figures = sense_figures(Dataset.from_dict({**rows, "exchange_other": change}))
        assert figures["sense_share"] == pytest.approx(1) and figures["control_share"] == 0

    def test_a_change_of_the_same_kind_whatever_is_exchanged_says_nothing(self):
        ones = dict.fromkeys(("exchange", "other", "same", "exchange_other", "exchange_same"), (1.0, 1.0, 1.0))
        figures = sense_figures(Dataset.from_dict({"text_id": [0, 1, 2], "exchanged": [True] * 3, **ones}))
        assert figures["sense_share"] == 0 and figures["control_share"] == 1

    def test_one_code_per_word_has_no_senses(self):
        nothing = {name: [0.0, 0.0] for name in ("exchange", "exchange_other", "exchange_same")}
        rows = {"text_id": [0, 1], "exchanged": [False, False], "other": [1.0, 2.0], "same": [1.0, 1.0], **nothing}
        figures = sense_figures(Dataset.from_dict(rows))
        assert figures["sense_share"] is figures["sense_share_low"] is figures["exchanged_share"] is None
        assert figures["num_tokens"] == 2 and figures["num_exchanged"] == 0


@pytest.mark.slow
class TestOnAHost:
    @pytest.fixture
    def parts(self, make_model, host, tokenizer, all_texts, fit):
        with torch.no_grad():
            host.classifier.weight *= 20
        train, texts = all_texts.select(range(60, 260)), all_texts.select(range(10))
        model = fit(make_model(), host, tokenizer, train)
        table = model.concept_table(host, tokenizer, texts)
        return model, host, tokenizer, table, fit_references(model, host, tokenizer, train.select_columns("text"))

    def test_each_row_is_that_of_the_host(self, parts):
        model, host, tokenizer, table, references = parts
        outcome = exchange_senses(model, host, tokenizer, table, references.occurrences, batch_size=4)
        again = exchange_senses(model, host, tokenizer, table, references.occurrences, batch_size=7)
        assert any(outcome["exchanged"][:])
        for name in outcome.column_names:
            assert np.allclose(outcome[name][:], again[name][:], rtol=1e-3, atol=1e-6), "whatever the batches"
        for row in outcome:
            text = table.texts[row["text_id"]]["text"]
            encoded = tokenizer(text, return_tensors="pt")
            position = row["position"]
            content = np.arange(1, encoded["input_ids"].shape[1] - 1)
            changes = senses._changes_of_text(
                row["text_id"],
                content,
                encoded["input_ids"][0].numpy(),
                table.column("code")[table.token_rows(row["text_id"])],
                references.occurrences,
                senses.NUM_TOKENS,
                0,
            )
            [change] = [change for change in changes if change["position"] == position]
            with torch.no_grad():
                plain = host(**encoded).logits.double()

                def put(state, position=position, change=change):
                    state = state.clone()
                    state[0, position] = change["other"]
                    return state

                with hooks.edit(host, 1, put):
                    changed = host(**encoded).logits.double()
            size = ((changed - plain)[0] - (changed - plain).mean()).square().mean()
            assert row["other"] == pytest.approx(size.item(), rel=1e-2, abs=1e-7)
            assert row["exchanged"] or row["exchange"] == row["exchange_other"] == 0

    def test_texts_without_a_frequent_word(self, parts):
        model, host, tokenizer, table, _ = parts
        none = Occurrences(*torch.zeros(2, 0, dtype=torch.int64), torch.zeros(0, 32))
        figures = sense_figures(exchange_senses(model, host, tokenizer, table, none))
        assert figures["sense_share"] is None and figures["num_tokens"] == 0

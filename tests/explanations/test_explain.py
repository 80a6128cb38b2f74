"""Explanations of small hosts, against the live interventions and by hand."""

import json

import pytest
import torch
from helpers.evaluated_hosts import balanced_classifier, clvq_on_states
from transformers import LlamaForCausalLM

from clvq_hf.evaluation.ablation import ablate
from clvq_hf.explanations import Explainer, explain
from clvq_hf.explanations.group import TextGroup
from clvq_hf.hosts import hooks
from clvq_hf.tables import ConceptName

LONG = "a wonderful and moving film with great actors, but the end is dull and the story silly. " * 6


@pytest.fixture
def sentences(texts) -> list[str]:
    return texts["text"][:12]


@pytest.fixture
def host(tokenizer, sentences):
    return balanced_classifier(tokenizer, sentences)


@pytest.fixture
def model(host, tokenizer, sentences):
    return clvq_on_states(host, tokenizer, sentences)


def logits_of(host, tokenizer, text):
    with torch.no_grad():
        return host(**tokenizer(text, return_tensors="pt")).logits[0].double()


def lead(logits, target):
    others = torch.cat([logits[:target], logits[target + 1 :]])
    return float(logits[target] - others.max())


class TestExplain:
    def test_contributions_add_up_to_what_all_concepts_are_worth(self, model, host, tokenizer, sentences):
        """Independently: a hook takes from every token what it has of its own concept's direction."""
        for explanation in model.explain(host, tokenizer, sentences[:4], max_error=1e-4):
            plain = logits_of(host, tokenizer, explanation.text)
            target = int(plain.argmax())

            def remove(states):
                directions = model.directions(model.encode(states)[0])[:, 0]
                return states - (states * directions).sum(-1, keepdim=True) * directions

            with hooks.edit(host, 1, remove):
                without = logits_of(host, tokenizer, explanation.text)
            total = lead(plain, target) - lead(without, target)
            assert explanation.margin == pytest.approx(lead(plain, target), abs=1e-5)
            assert explanation.error < 1e-3
            contributed = sum(concept.contribution for concept in explanation.concepts)
            # Special tokens have concepts too.
            assert contributed + explanation.special_score == pytest.approx(total, abs=2e-3)

    def test_removals_are_those_of_ablate(self, model, host, tokenizer, sentences):
        for explanation in model.explain(host, tokenizer, sentences):
            plain = logits_of(host, tokenizer, explanation.text)
            for removal in filter(None, (explanation.salient, explanation.control)):
                with model.ablate(host, removal.code):
                    without = logits_of(host, tokenizer, explanation.text)
                assert removal.margin == pytest.approx(lead(without, int(plain.argmax())), abs=1e-4)
                assert removal.change == pytest.approx(removal.margin - explanation.margin, abs=1e-6)
                assert removal.flips == (int(without.argmax()) != int(plain.argmax()))

    def test_merged_concepts_are_explained_and_removed_as_one(self, model, host, tokenizer, texts, sentences):
        table = model.concept_table(host, tokenizer, texts)
        explanations = model.explain(host, tokenizer, sentences, table=table)
        apart = next(found for found in explanations if found.concepts[1].contribution > 0)
        first, second = (concept.code for concept in apart.concepts[:2])
        table.merge([first, second], "both", author="Ann")
        together = model.explain(host, tokenizer, apart.text, table=table)
        both = together.concept(min(first, second))
        parts = [apart.concept(first), apart.concept(second)]
        assert both.name == "both" and both.named_by.startswith("named by Ann, ")
        assert "“both” (" in both.title and "named by" not in both.title
        assert both.contribution == pytest.approx(sum(part.contribution for part in parts), abs=1e-4)
        assert both.positions == sorted(parts[0].positions + parts[1].positions)
        assert len(together.concepts) == len(apart.concepts) - 1
        assert together.salient.code == both.code and together.salient.num_tokens >= len(both.positions)
        with model.ablate(host, first), model.ablate(host, second):
            without = logits_of(host, tokenizer, apart.text)
        target = int(logits_of(host, tokenizer, apart.text).argmax())
        assert together.salient.margin == pytest.approx(lead(without, target), abs=1e-4)

    def test_a_name_that_a_model_gave_is_marked(self, model, host, tokenizer, texts, sentences):
        table = model.concept_table(host, tokenizer, texts)
        explanations = model.explain(host, tokenizer, sentences)
        plain = next(found for found in explanations if found.salient is not None)
        table.names[plain.salient.code] = ConceptName("praise", "judge", 1)
        explanation = model.explain(host, tokenizer, plain.text, table=table)
        assert "“praise” (named by a model; " in explanation.sentences()[1]
        assert explanation.to_dict()["concepts"][0]["named_by"] == "named by a model"

    def test_texts_do_not_depend_on_each_other(self, model, host, tokenizer, sentences):
        together = model.explain(host, tokenizer, sentences, batch_size=5)
        assert [explanation.text for explanation in together] == sentences
        assert [explanation.text_id for explanation in together] == [*range(12)]
        for explanation in together:
            alone = model.explain(host, tokenizer, explanation.text)
            assert [concept.code for concept in alone.concepts] == [concept.code for concept in explanation.concepts]
            assert alone.margin == pytest.approx(explanation.margin, abs=1e-4)
            assert [token.score for token in alone.tokens] == pytest.approx(
                [token.score for token in explanation.tokens], abs=1e-3
            )

    def test_concepts_are_in_order_and_own_their_tokens(self, model, host, tokenizer, sentences):
        for explanation in model.explain(host, tokenizer, sentences):
            contributions = [concept.contribution for concept in explanation.concepts]
            assert contributions == sorted(contributions, reverse=True)
            for concept in explanation.concepts:
                own = [explanation.tokens[place] for place in concept.positions]
                assert {token.code for token in own} == {concept.code}
                assert concept.contribution == pytest.approx(sum(token.score for token in own), abs=1e-9)
            if explanation.salient is None:
                assert contributions[0] <= 0
            else:
                assert explanation.salient.code == explanation.concepts[0].code
                assert explanation.control is None or explanation.control.code != explanation.salient.code

    def test_gradient_is_the_slope_of_the_removal(self, model, host, tokenizer, sentences):
        """Gradient × input: the derivative of the lead when all concepts begin to be removed, by differences."""
        explanation = model.explain(host, tokenizer, sentences[0], method="gradient_x_input")
        target = int(logits_of(host, tokenizer, sentences[0]).argmax())

        def lead_at(share):
            def weaken(states):
                directions = model.directions(model.encode(states)[0])[:, 0]
                return states - share * (states * directions).sum(-1, keepdim=True) * directions

            with hooks.edit(host, 1, weaken):
                return lead(logits_of(host, tokenizer, sentences[0]), target)

        slope = (lead_at(-1e-2) - lead_at(1e-2)) / 2e-2
        assert sum(token.score for token in explanation.tokens) + explanation.special_score == pytest.approx(
            slope, rel=0.05
        )
        explainer = Explainer(model, host, tokenizer, method="gradient_x_input")
        reading = explainer._read_for(None)
        group = TextGroup(reading, list(explainer.windows([sentences[0]], reading).values()))
        [scores], [error] = group.scores(torch.tensor([target]), 1)
        missed = abs(scores.sum() - (lead_at(0) - lead_at(1))) / abs(scores).sum()
        assert explanation.error == pytest.approx(error) == pytest.approx(missed, rel=1e-3)
        # What a slope says is refused if it is of another size than what removals cost.
        assert any("miss the change" in reason for reason in explanation.reasons) == (missed > 0.5)

    def test_a_model_that_was_hardly_trained_is_said(self, model, host, tokenizer, sentences):
        model.config.training = {"figures": {"explained_variance": -0.34}}
        explanation = model.explain(host, tokenizer, sentences[0])
        assert "explained variance -0.34" in explanation.reasons[0] and not explanation.reliable

    def test_targets(self, model, host, tokenizer, sentences):
        host.config.id2label = {0: "bad", 1: "good"}
        both = model.explain(host, tokenizer, sentences[0], target="all")
        assert [explanation.target for explanation in both] == ["bad", "good"]
        assert both[0].margin == pytest.approx(-both[1].margin, abs=1e-6)
        assert both[0].probability + both[1].probability == pytest.approx(1)
        assert model.explain(host, tokenizer, sentences[0], target="good").margin == pytest.approx(both[1].margin)
        assert model.explain(host, tokenizer, sentences[0], target=1).target == "good"
        # What supports one class speaks against the other.
        assert [token.score for token in both[0].tokens] == pytest.approx(
            [-token.score for token in both[1].tokens], abs=1e-5
        )
        with pytest.raises(ValueError, match="no answer 'fine'; choose target=… among bad, good"):
            model.explain(host, tokenizer, sentences[0], target="fine")


def test_controls_are_matched_as_in_measured_ablations():
    assert (explain.POSITION_CALIPER, explain.NORM_CALIPER) == (ablate.POSITION_CALIPER, ablate.NORM_CALIPER)


class TestLongTexts:
    def test_windows_are_averaged(self, model, host, tokenizer):
        explanation = model.explain(host, tokenizer, LONG, max_length=32)
        assert explanation.num_windows > 3 and explanation.num_cut == 0
        [text] = Explainer(model, host, tokenizer, max_length=32).windows([LONG]).values()
        rows = torch.stack(
            [
                host(input_ids=torch.tensor([window["input_ids"]])).logits[0].detach().double()
                for window in text.windows
            ]
        )
        pooled = (rows * torch.tensor(text.weights)[:, None]).sum(0)
        assert explanation.margin == pytest.approx(lead(pooled, int(pooled.argmax())), abs=1e-4)
        assert "".join(token.text for token in explanation.tokens) == LONG.replace(" ", "")
        assert explanation.error < 0.05

    def test_order_of_windows_and_batches_do_not_matter(self, model, host, tokenizer):
        one, other = (model.explain(host, tokenizer, LONG, max_length=32, batch_size=size) for size in (2, 64))
        assert [concept.code for concept in one.concepts] == [concept.code for concept in other.concepts]
        assert one.margin == pytest.approx(other.margin, abs=1e-4)
        assert [concept.contribution for concept in one.concepts] == pytest.approx(
            [concept.contribution for concept in other.concepts], abs=1e-3
        )

    def test_truncation_is_told(self, model, host, tokenizer):
        explanation = model.explain(host, tokenizer, LONG, max_length=32, long_texts="truncate")
        assert explanation.num_windows == 1 and len(explanation.tokens) == 30
        assert f"{explanation.num_cut} tokens were not read" in str(explanation)

    def test_causal_models_read_the_end(self, causal_host: LlamaForCausalLM, tokenizer, fit, make_model, texts):
        model = fit(make_model(), causal_host, tokenizer, texts)
        explanation = model.explain(causal_host, tokenizer, LONG, max_length=20)
        inputs = {"input_ids": tokenizer(LONG, return_tensors="pt", verbose=False)["input_ids"][:, -19:]}
        first = tokenizer(LONG)["input_ids"][:1]
        inputs["input_ids"] = torch.cat([torch.tensor([first]), inputs["input_ids"]], dim=1)
        logits = causal_host(**inputs).logits[0, -1]
        assert explanation.prediction == tokenizer.decode([int(logits.argmax())])
        assert explanation.tokens[-1].text == "."


class TestInput:
    def test_texts_without_tokens(self, model, host, tokenizer, caplog, monkeypatch):
        messages = []
        monkeypatch.setattr("clvq_hf.explanations.explain.logger.warning", messages.append)
        found = model.explain(host, tokenizer, ["", "fine film", " "])
        assert [explanation.text_id for explanation in found] == [1]
        assert messages == ["Skipped 2 empty texts of 3."]
        with pytest.raises(ValueError, match="nothing to explain"):
            model.explain(host, tokenizer, "\u200b")

    def test_wrong_arguments(self, model, host, tokenizer):
        for options, message in (
            ({"method": "magic"}, "method must be one of"),
            ({"long_texts": "cut"}, "long_texts"),
        ):
            with pytest.raises(ValueError, match=message):
                model.explain(host, tokenizer, "fine film", **options)

    def test_host_is_left_as_it_was(self, model, host, tokenizer):
        def hooks_of_blocks():
            return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in host.modules()]

        model.explain(host, tokenizer, "fine film")  # transformers installs hooks of its own once
        before = hooks_of_blocks()
        host.train()
        model.explain(host, tokenizer, "fine film")
        assert hooks_of_blocks() == before
        assert host.training and all(parameter.requires_grad for parameter in host.parameters())


class TestResult:
    def test_table_describes_concepts(self, model, host, tokenizer, texts):
        table = model.concept_table(host, tokenizer, texts)
        explanation = model.explain(host, tokenizer, texts[0]["text"], table=table)
        concept = explanation.concepts[0]
        known = table.concept(concept.code)
        assert concept.top_words == [word for word, _ in known.top_words[:8]]
        assert (concept.num_texts, concept.purity, concept.label) == (known.num_texts, known.purity, known.label)

    def test_to_dict_is_json(self, model, host, tokenizer, sentences):
        explanation = model.explain(host, tokenizer, sentences[0])
        loaded = json.loads(json.dumps(explanation.to_dict(), allow_nan=False))
        assert loaded["schema"] == 1 and loaded["text"] == sentences[0]
        assert loaded["concepts"][0]["code"] == explanation.concepts[0].code

    def test_everything_from_data_is_escaped(self, model, host, tokenizer):
        page = model.explain(host, tokenizer, "a <script>alert(1)</script> film")._repr_html_()
        assert "<script>" not in page and "&lt;" in page

    def test_words_in_a_terminal(self, model, host, tokenizer, sentences):
        shown = str(model.explain(host, tokenizer, "a [bold]fine[/] film"))
        assert "a [bold]fine[/] film" in shown and "The host predicts" in shown

"""What an Explorer says of a text is what model and host say, asked one by one."""

import copy
import sys
import threading
from time import sleep

import pytest
import torch
from datasets import Dataset
from helpers.app_helpers import byte_tokenizer, fitted
from helpers.headed_hosts import TAGS, bert_with
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

from clvq_hf import CLVQModel
from clvq_hf.app import Continuation, Explorer
from clvq_hf.app.session import CHARACTERS_PER_TOKEN, NUM_WORDS

TEXT = "a warm and funny film, with a brilliant cast"


def logits_of(explorer: Explorer, text: str = TEXT) -> torch.Tensor:
    with torch.no_grad():
        return explorer.host(**explorer.tokenizer(text, return_tensors="pt")).logits[0]


def number_of_hooks(host) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in host.modules())


class TestRead:
    def test_codes_are_those_of_a_concept_table(self, minilm, all_texts):
        texts = all_texts.select(range(60, 64))
        table = minilm.model.concept_table(minilm.host, minilm.tokenizer, texts)
        for number, text in enumerate(texts["text"]):
            expected, read = table.text(number), minilm.read(text)
            assert [token.code for token in read.tokens] == expected["code"].tolist()
            assert [token.name for token in read.tokens] == expected["token"].tolist()
            assert [(token.start, token.end) for token in read.tokens] == list(
                zip(expected["start"], expected["end"], strict=True)
            )
            assert [token.is_special for token in read.tokens] == expected["special"].tolist()

    def test_probabilities_are_the_hosts(self, minilm):
        read = minilm.read(TEXT)
        assert [name for name, _ in read.probabilities] == ["negative", "positive"]
        expected = logits_of(minilm).softmax(-1)
        torch.testing.assert_close(torch.tensor([share for _, share in read.probabilities]), expected)
        assert read.limit is None and read.text == TEXT

    @pytest.mark.slow
    def test_only_the_likeliest_of_many_classes(self, minilm):
        torch.manual_seed(1)
        config = BertConfig.from_dict({**minilm.host.config.to_dict(), "num_labels": 30, "id2label": None})
        host = BertForSequenceClassification(config).eval()
        explorer = Explorer(minilm.model, host, minilm.tokenizer)
        shares = logits_of(explorer).softmax(-1)
        best = shares.topk(5)
        names = [f"LABEL_{label}" for label in best.indices.tolist()]
        assert explorer.read(TEXT).probabilities == [
            (name, pytest.approx(share)) for name, share in zip(names, best.values.tolist(), strict=True)
        ]

    def test_a_causal_host_shows_the_likeliest_next_tokens(self, llama):
        expected = logits_of_last(llama).softmax(-1).topk(5)
        names = [llama.tokenizer.decode([token]) for token in expected.indices.tolist()]
        read = llama.read(TEXT)
        assert [name for name, _ in read.probabilities] == names
        assert [share for _, share in read.probabilities] == pytest.approx(expected.values.tolist())

    def test_a_host_without_head_has_concepts_alone(self, minilm, minilm_dir):
        host = AutoModel.from_pretrained(minilm_dir).eval()
        explorer = Explorer(minilm.model, host, minilm.tokenizer, minilm.table)
        read, whole = explorer.read(TEXT), minilm.read(TEXT)
        assert read.probabilities == [] and explorer.label_names == []
        assert read.tokens == whole.tokens
        effect = explorer.ablate(TEXT, read.tokens[1].code)
        assert (effect.bars, effect.prediction, effect.margin, effect.continuations) == ([], None, None, None)

    def test_long_texts_are_cut_and_told(self, minilm):
        explorer = Explorer(minilm.model, minilm.host, minilm.tokenizer, max_length=6)
        fits, cut = explorer.read("a warm funny film"), explorer.read("a warm funny film again")
        assert (len(fits.tokens), fits.limit) == (6, None)
        assert (len(cut.tokens), cut.limit) == (6, 6)
        assert cut.tokens[-1].name == "[SEP]"

    @pytest.mark.parametrize("text", ["\u200b", "\ufeff", " "])
    def test_a_text_of_which_nothing_is_left(self, minilm, text):
        with pytest.raises(ValueError, match=r"Type (another )?one"):
            minilm.read(text)

    @pytest.mark.slow
    def test_the_hosts_own_limit_leaves_room_for_what_is_generated(self, llama):
        assert llama.max_length == 128 - llama.max_new_tokens
        effect = llama.ablate("film " * 500, 0, positions="all", max_new_tokens=64)
        assert effect.reading.limit == len(effect.reading.tokens) == llama.max_length


@pytest.mark.parametrize(
    "text", ["good " * 2_000_000, "x" * 10_000_000, "good" + " " * 10_000_000, "👩🏽‍💻" * 1_000_000]
)
def test_of_a_huge_text_only_the_beginning_is_tokenized(minilm, text, monkeypatch):
    lengths, tokenizer_class = [], type(minilm.tokenizer)
    tokenize = tokenizer_class.__call__

    def measured(self, given, *arguments, **options):
        lengths.extend(map(len, [given] if isinstance(given, str) else given))
        return tokenize(self, given, *arguments, **options)

    monkeypatch.setattr(tokenizer_class, "__call__", measured)
    explorer = Explorer(minilm.model, minilm.host, minilm.tokenizer, minilm.table, 16)
    reading = explorer.read(text)
    effect = explorer.ablate(text, reading.tokens[1].code)
    limit = CHARACTERS_PER_TOKEN * explorer.max_length
    assert lengths and max(lengths) <= limit + 1
    assert len(reading.text) <= limit + 1 and len(effect.reading.text) <= limit + 1
    assert reading.limit == explorer.max_length, "the reader is told"


class TestSalience:
    def test_the_salient_token_is_that_of_the_library(self, minilm):
        salience = minilm.model.salient_tokens(
            minilm.host, minilm.tokenizer, Dataset.from_dict({"text": [TEXT]}), n_steps=32, max_steps=64
        )
        read = minilm.read(TEXT)
        assert read.salient == salience["salient_position"][0]
        assert read.salient_is_certain == (salience["error"][0] <= 0.05)
        assert not read.tokens[read.salient].is_special

    def test_a_causal_host_and_a_text_that_is_cut(self, llama):
        read = llama.read(TEXT)
        assert read.salient is not None and not read.tokens[read.salient].is_special

    def test_without_captum_no_token_is_marked(self, minilm, monkeypatch):
        monkeypatch.setitem(sys.modules, "captum", None)
        assert minilm.read(TEXT).salient is None


class TestExamples:
    def test_short_texts_of_every_prediction(self, minilm):
        examples = minilm.examples
        assert len(examples) == 5 == len(set(examples)) and all(len(text) <= 160 for text in examples)
        rows = {row["text"].strip(): row["prediction"] for row in minilm.table.texts}
        assert {rows[text] for text in examples} == set(rows.values())

    def test_without_a_table_there_are_none(self, llama):
        assert llama.examples == []

    def test_toxic_texts_are_none(self, minilm, monkeypatch):
        monkeypatch.setattr("clvq_hf.app.session.called_toxic", lambda names: frozenset({"negative"}))
        rows = {row["text"].strip(): (row["label"], row["prediction"]) for row in minilm.table.texts}
        assert {rows[text] for text in minilm.examples} == {(1, 1)}


def logits_of_last(explorer: Explorer, text: str = TEXT) -> torch.Tensor:
    encoded = explorer.tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        return explorer.host(**encoded).logits[0, -1]


class TestChange:
    @pytest.mark.parametrize("positions", ["code", "all"])
    def test_another_concept_of_the_text_is_removed_for_comparison(self, minilm, positions):
        read = minilm.read(TEXT)
        codes = [token.code for token in read.tokens]
        content = {token.code for token in read.tokens if not token.is_special}
        for code in sorted(content)[:2]:
            effect = minilm.ablate(TEXT, code, positions)
            control = effect.control
            assert control.code in content - {code}
            distances = {other: abs(codes.count(other) - codes.count(code)) for other in content - {code}}
            assert distances[control.code] == min(distances.values())
            assert control.num_tokens == (codes.count(control.code) if positions == "code" else len(codes))
            alone = minilm.ablate(TEXT, control.code, positions)
            assert control.prediction == alone.prediction[1]
            assert [bar.control for bar in effect.bars] == [pytest.approx(bar.after) for bar in alone.bars]
            assert minilm.ablate(TEXT, code, positions).control == control  # drawn, and always the same

    def test_a_push_and_a_text_of_one_concept_have_no_control(self, minilm):
        read = minilm.read("film")
        assert minilm.steer(TEXT, read.tokens[1].code, 0.5).control is None
        assert minilm.ablate("film", read.tokens[1].code).control is None

    @pytest.mark.parametrize("positions", ["code", "all", "cls", "last"])
    @pytest.mark.parametrize("how", ["project", "swap"])
    def test_ablation_is_that_of_the_model(self, minilm, positions, how):
        code = minilm.read(TEXT).tokens[2].code
        plain = logits_of(minilm)
        with minilm.model.ablate(minilm.host, code, positions, how):
            changed = logits_of(minilm)
        effect = minilm.ablate(TEXT, code, positions, how)
        self.check(effect, plain, changed)
        count = sum(token.code == code for token in effect.reading.tokens)
        assert effect.num_tokens == {"code": count, "all": len(effect.reading.tokens)}.get(positions, 1)
        assert effect.continuations is None

    @pytest.fixture
    def untracked(self, minilm):
        """The same with a model of earlier versions, which does not know the mean states of its codes' tokens."""
        model = copy.deepcopy(minilm.model)
        model.quantizer.member_sums = None
        return lambda table=minilm.table: Explorer(model, minilm.host, minilm.tokenizer, table=table)

    def test_a_swap_takes_means_that_a_model_does_not_know_from_the_table(self, untracked):
        explorer = untracked()
        code = explorer.read(TEXT).tokens[2].code
        plain = logits_of(explorer)
        means = {"mean": self.mean_state(explorer), "member_mean": self.mean_state(explorer, code)}
        with explorer.model.ablate(explorer.host, code, "code", "swap", **means):
            changed = logits_of(explorer)
        self.check(explorer.ablate(TEXT, code, "code", "swap"), plain, changed)

    def mean_state(self, explorer, code=None):
        """Of the content tokens of the first 32 texts of the table, or of those of a concept."""
        table, states = explorer.table, []
        ids = table.texts["text_id"][:]
        if code is not None:
            ids = [text for text in ids if ((t := table.text(text))["code"] == code)[~t["special"]].any()]
        for text_id in ids[:32]:
            tokens = table.text(text_id)
            chosen = ~tokens["special"] if code is None else ~tokens["special"] & (tokens["code"] == code)
            encoded = explorer.tokenizer(table.texts[table.text_row(text_id)]["text"], return_tensors="pt")
            with torch.no_grad():
                found = explorer.host(**encoded, output_hidden_states=True).hidden_states[3][0]
            states.append(found[torch.from_numpy(chosen.to_numpy(copy=True))])
        return torch.cat(states).mean(0)

    def test_a_swap_needs_the_means_or_a_table(self, minilm, untracked):
        alone = untracked(table=None)
        assert minilm.swaps and untracked().swaps and not alone.swaps
        assert Explorer(minilm.model, minilm.host, minilm.tokenizer).swaps
        with pytest.raises(ValueError, match="--table"):
            alone.ablate(TEXT, 3, how="swap")

    @pytest.mark.parametrize("strength", [-1.5, 0.75])
    def test_steering_is_that_of_the_model(self, minilm, strength):
        plain = logits_of(minilm)
        with minilm.model.steer(minilm.host, 7, strength):
            changed = logits_of(minilm)
        effect = minilm.steer(TEXT, 7, strength)
        self.check(effect, plain, changed)
        assert effect.num_tokens == len(effect.reading.tokens)

    def check(self, effect, plain, changed):
        assert not torch.allclose(plain, changed)
        assert [bar.name for bar in effect.bars] == ["negative", "positive"]
        assert [bar.before for bar in effect.bars] == pytest.approx(plain.softmax(-1).tolist(), abs=1e-6)
        assert [bar.after for bar in effect.bars] == pytest.approx(changed.softmax(-1).tolist(), abs=1e-6)
        best = int(plain.argmax())
        names = ["negative", "positive"]
        assert effect.prediction == (names[best], names[int(changed.argmax())])
        margins = [float(row[best] - row[1 - best]) for row in (plain, changed)]
        assert effect.margin == pytest.approx(margins, abs=1e-5)

    def test_nothing_changes_where_the_concept_does_not_occur(self, minilm):
        absent = next(code for code in range(60) if code not in {token.code for token in minilm.read(TEXT).tokens})
        effect = minilm.ablate(TEXT, absent)
        assert effect.num_tokens == 0
        assert all(bar.before == bar.after for bar in effect.bars)
        assert minilm.steer(TEXT, 7, 0.0).margin[0] == minilm.steer(TEXT, 7, 0.0).margin[1]

    def test_a_sparse_dictionary_is_removed_and_steered_but_not_swapped(
        self, host, tokenizer, make_sparse, texts, fit
    ):
        explorer = Explorer(fit(make_sparse(), host, tokenizer, texts), host, tokenizer)
        code = explorer.read(TEXT).tokens[1].code
        assert explorer.ablate(TEXT, code, "all").margin[0] != explorer.ablate(TEXT, code, "all").margin[1]
        assert explorer.steer(TEXT, code, 1.0).margin[0] != explorer.steer(TEXT, code, 1.0).margin[1]
        with pytest.raises(ValueError, match="use how='project'"):
            explorer.ablate(TEXT, code, how="swap")

    def test_the_host_is_as_before_even_after_an_error(self, minilm):
        hooks, plain = number_of_hooks(minilm.host), logits_of(minilm)
        minilm.ablate(TEXT, 3, "all")
        with pytest.raises(ValueError, match="positions must be one of"):
            minilm.ablate(TEXT, 3, "everywhere")
        with pytest.raises(ValueError, match="how must be one of"):
            minilm.ablate(TEXT, 3, how="forget")
        assert number_of_hooks(minilm.host) == hooks
        assert torch.equal(logits_of(minilm), plain)
        assert minilm.read(TEXT)  # and nobody waits for the lock


class TestGenerate:
    def greedy(self, explorer, new):
        encoded = explorer.tokenizer(TEXT, return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            tokens = explorer.host.generate(**encoded, max_new_tokens=new, do_sample=False, pad_token_id=0)
        return tokens[0, encoded["input_ids"].shape[1] :].tolist()

    @pytest.mark.parametrize("change", ["ablate", "steer"])
    def test_text_before_and_after(self, llama, change):
        arguments = {"positions": "all"} if change == "ablate" else {"strength": 1.0}
        code = llama.read(TEXT).tokens[3].code
        before = self.greedy(llama, 8)
        with getattr(llama.model, change)(llama.host, code, **arguments):
            after = self.greedy(llama, 8)
        assert before != after
        effect = getattr(llama, change)(TEXT, code, max_new_tokens=8, **arguments)
        first = next(place for place, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1])
        for found, tokens in zip(effect.continuations, (before, after), strict=True):
            decode = lambda ids: llama.tokenizer.decode(ids, clean_up_tokenization_spaces=False)  # noqa: E731
            assert found.text == decode(tokens)
            assert found.shared == decode(tokens[:first])
            assert found.different.strip() == llama.tokenizer.decode([tokens[first]]).removeprefix("##")
        assert {bar.name for bar in effect.bars} >= {name for name, _ in effect.reading.probabilities}

    def test_equal_texts_have_no_token_that_differs(self, llama):
        before, after = llama.steer(TEXT, 0, 0.0, max_new_tokens=5).continuations
        assert before == after and before.different == before.rest == "" and before.shared

    @pytest.mark.slow
    def test_never_more_than_the_limit(self, llama):
        before, _ = llama.steer(TEXT, 0, 0.0, max_new_tokens=10_000).continuations
        assert before.text == llama.tokenizer.decode(self.greedy(llama, 64), clean_up_tokenization_spaces=False)

    def test_parts_of_a_character_stay_together(self, fit, texts, make_model):
        tokenizer = byte_tokenizer()
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64
        )
        host = LlamaForCausalLM(config).eval()
        explorer = Explorer(fit(make_model(), host, tokenizer, texts), host, tokenizer)
        assert [(token.start, token.end) for token in explorer.read("é!").tokens] == [(0, 1), (0, 1), (1, 2)]
        first, second = (tokenizer(text)["input_ids"] for text in ("aéb", "aèb"))  # which differ in the second byte
        assert explorer._continuation(first, second) == Continuation("a", "é", "b")
        assert explorer._continuation(first[:2], second) == Continuation("a", "", "\ufffd")


@pytest.mark.slow
def test_smollm2(all_texts, smollm2_dir):
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    host = AutoModelForCausalLM.from_pretrained(smollm2_dir).eval()
    explorer = Explorer(fitted(host, tokenizer, all_texts.select(range(4)), 12, 24, 40), host, tokenizer)
    text = "The capital of France is"
    read = explorer.read(text)
    assert [text[token.start : token.end].strip() for token in read.tokens] == text.split()
    assert read.probabilities[0][0] == " Paris"
    code = read.tokens[3].code
    for effect in (
        explorer.ablate(text, code, "all", max_new_tokens=4),
        explorer.steer(text, code, 2.0, max_new_tokens=4),
    ):
        before, after = effect.continuations
        assert before.text.startswith(" Paris") and before.text != after.text
        assert effect.margin[0] > effect.margin[1]


@pytest.mark.slow
class TestTogether:
    def test_two_requests_at_a_time_do_not_mix(self, minilm):
        code = minilm.read(TEXT).tokens[2].code
        plain, changed = minilm.read(TEXT), minilm.ablate(TEXT, code, "all")
        assert changed.bars[0].before != changed.bars[0].after
        # Slow enough that calls would overlap.
        slow = minilm.host.register_forward_pre_hook(lambda *_: sleep(0.01))
        found = {"read": [], "ablate": []}

        def repeat(name, call):
            for _ in range(8):
                found[name].append(call())

        threads = [
            threading.Thread(target=repeat, args=("read", lambda: minilm.read(TEXT))),
            threading.Thread(target=repeat, args=("ablate", lambda: minilm.ablate(TEXT, code, "all"))),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        slow.remove()
        assert found == {"read": [plain] * 8, "ablate": [changed] * 8}

    def test_a_tokenizer_is_used_by_one_at_a_time(self, minilm):
        class Watched:
            """A fast tokenizer keeps the length to which it cuts: two at a time would cut to each other's."""

            def __init__(self):
                self.inside, self.overlaps = 0, 0

            def __getattr__(self, name):
                return getattr(minilm.tokenizer, name)

            def __call__(self, *arguments, **options):
                self.inside += 1
                self.overlaps += self.inside > 1
                sleep(0.01)
                try:
                    return minilm.tokenizer(*arguments, **options)
                finally:
                    self.inside -= 1

        explorer = Explorer(minilm.model, minilm.host, Watched(), max_length=6)
        long, short = "a warm funny film again", "a film"
        calls = {
            "long": lambda: explorer.read(long).limit,
            "short": lambda: explorer.read(short).limit,
            "change": lambda: explorer.ablate(long, 3).reading.limit,
        }
        found = {name: [] for name in calls}
        threads = [
            threading.Thread(target=lambda name=name: found[name].extend(calls[name]() for _ in range(5)))
            for name in calls
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == {"long": [6] * 5, "short": [None] * 5, "change": [6] * 5}
        assert explorer.tokenizer.overlaps == 0


class TestWhatIsRefused:
    @pytest.mark.parametrize("text", ["", "  \n"])
    def test_no_text(self, minilm, text):
        with pytest.raises(ValueError, match="Type one first"):
            minilm.read(text)

    @pytest.mark.parametrize("code", [-1, 60, None, 2.5])
    def test_no_such_concept(self, minilm, code):
        for call in (
            lambda: minilm.ablate(TEXT, code),
            lambda: minilm.steer(TEXT, code, 1.0),
            lambda: minilm.concept(code),
        ):
            with pytest.raises(ValueError, match="click a token, or enter a number from 0 to 59"):
                call()

    def test_parts_that_do_not_belong_together(self, minilm, host, tokenizer, make_model, fit, texts):
        model = fit(make_model(), host, tokenizer, texts)
        with pytest.raises(ValueError, match="made with another model"):
            Explorer(model, host, tokenizer, minilm.table)
        with pytest.raises(ValueError, match="hidden_size"):
            Explorer(model, minilm.host, tokenizer)
        with pytest.raises(ValueError, match="train it first"):
            Explorer(make_model(), host, tokenizer)

    def test_slow_tokenizers(self, minilm):
        class Slow:
            is_fast = False

        with pytest.raises(ValueError, match="Load the fast one"):
            Explorer(minilm.model, minilm.host, Slow())


class TestFromPretrained:
    @pytest.fixture
    def folders(self, minilm, tmp_path):
        minilm.host.save_pretrained(tmp_path / "host")
        minilm.tokenizer.save_pretrained(tmp_path / "host")
        minilm.model.save_pretrained(tmp_path / "model")
        return tmp_path

    @pytest.mark.slow
    def test_a_table_is_named_or_lies_beside_the_model(self, minilm, folders, caplog):
        model, host = str(folders / "model"), str(folders / "host")
        explorer = Explorer.from_pretrained(model, host)
        assert explorer.table is None and explorer.concept(3) is None
        assert explorer.read(TEXT) == minilm.read(TEXT)
        minilm.table.save_to_disk(folders / "table")
        assert len(Explorer.from_pretrained(model, host, folders / "table").table) == len(minilm.table)
        minilm.table.save_to_disk(folders / "model" / "concepts")
        explorer = Explorer.from_pretrained(model, host)
        assert explorer.concept(3) == minilm.table.concept(3, NUM_WORDS, num_examples=0)
        assert explorer.label_names == ["negative", "positive"]

    def test_what_is_missing(self, folders):
        with pytest.raises(ValueError, match="holds no concept table"):
            Explorer.from_pretrained(str(folders / "model"), str(folders / "host"), folders / "nowhere")
        with pytest.raises(ValueError, match="Is it the host rather"):
            Explorer.from_pretrained(str(folders / "host"))

    @pytest.mark.slow
    def test_everything_from_the_hub(self, shared_model, hub, hub_host, tokenizer, texts):
        table = shared_model.concept_table(hub_host, tokenizer, texts)
        shared_model.push_to_hub("org/concepts", concepts=table)
        explorer = Explorer.from_pretrained("org/concepts")
        assert isinstance(explorer.model, CLVQModel)
        assert explorer.label_names == ["negative", "positive"]
        assert len(explorer.table) == len(table)
        assert explorer.read(TEXT).probabilities

    @pytest.mark.slow
    def test_labels_without_names_take_those_of_the_table(self, minilm):
        config = BertConfig.from_dict({**minilm.host.config.to_dict(), "id2label": None, "label2id": None})
        host = BertForSequenceClassification(config).eval()
        host.load_state_dict(minilm.host.state_dict())
        assert Explorer(minilm.model, host, minilm.tokenizer).label_names == ["LABEL_0", "LABEL_1"]
        assert Explorer(minilm.model, host, minilm.tokenizer, minilm.table).label_names == minilm.table.label_names


class TestHeads:
    """Hosts of which something must be chosen show what their table asks."""

    def test_the_label_that_the_table_asks_about(self, make_model, tokenizer, texts, fit):
        few = texts.remove_columns("label").select(range(8))
        host = bert_with("multi_label", tokenizer, few["text"])
        model = fit(make_model(), host, tokenizer, few)
        assert Explorer(model, host, tokenizer).read(TEXT).probabilities == [], "nothing says which label"
        explorer = Explorer(model, host, tokenizer, model.concept_table(host, tokenizer, few, target="insult"))
        expected = float(logits_of(explorer)[4].sigmoid())
        assert explorer.read(TEXT).probabilities == [
            ("not insult", pytest.approx(1 - expected)),
            ("insult", pytest.approx(expected)),
        ]

    def test_a_number_is_no_probability(self, make_model, tokenizer, texts, fit):
        few = texts.remove_columns("label").select(range(8))
        host = bert_with("regression", tokenizer, few["text"])
        model = fit(make_model(), host, tokenizer, few)
        explorer = Explorer(model, host, tokenizer, model.concept_table(host, tokenizer, few))
        assert explorer.read(TEXT).probabilities == []

    def test_classes_of_tokens(self, make_model, tokenizer, texts, fit):
        few = texts.remove_columns("label").select(range(8))
        host = bert_with("tokens", tokenizer, few["text"])
        explorer = Explorer(fit(make_model(), host, tokenizer, few), host, tokenizer)
        assert [name for name, _ in explorer.read(TEXT).probabilities] == TAGS

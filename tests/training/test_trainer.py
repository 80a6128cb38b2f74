import gc
import inspect
import itertools
import json
import pickle
import threading
import types
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from datasets import Dataset, IterableDataset, concatenate_datasets
from transformers import AutoModel, Trainer, TrainerCallback, TrainingArguments

from clvq_hf import (
    ActivationCache,
    ClusterConfig,
    ClusterModel,
    CLVQModel,
    CLVQTrainer,
    CLVQTrainingArguments,
    ConceptModel,
    SparseConfig,
    SparseDictionary,
)
from clvq_hf.data import upper_sensitivity
from clvq_hf.hosts import hooks
from clvq_hf.training.trainer import check_output_dir


@pytest.fixture
def build_cache(host, tokenizer, texts, tmp_path):
    return lambda: ActivationCache.build(tmp_path / "cache", host, tokenizer, texts, lower_layer=1, upper_layer=3)


def state(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal_states(first, second):
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def accumulation_agrees(make_trainer, make):
    """Micro-batches of unlike length: 56 of 60 texts make full global batches of 8."""
    states = []
    for batch, accumulation in ((8, 1), (2, 4)):
        trainer = make_trainer(
            make(),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            max_steps=7,
            optim="sgd",
            learning_rate=0.1,
            per_device_eval_batch_size=8,
        )
        trainer.train()
        states.append(state(trainer.model))
    for name, tensor in states[0].items():
        assert torch.allclose(tensor.float(), states[1][name].float(), atol=2e-5), name


def grown(host):
    """While it lasts, the host's first token after [CLS] is an attention sink at layer 1."""
    return hooks.edit(host, 1, lambda states: torch.cat([states[:, :1], 100 * states[:, 1:2], states[:, 2:]], dim=1))


class TestTraining:
    def test_learns_and_logs_every_figure(self, make_trainer, texts):
        trainer = make_trainer(eval_dataset=texts.select(range(20)), eval_strategy="epoch", num_train_epochs=6)
        before = state(trainer.host)
        trainer.train()
        logs = [log for log in trainer.state.log_history if "loss" in log]
        figures = ("reconstruction_loss", "commitment_loss", "explained_variance", "perplexity", "active_codes")
        assert all(set(figures) <= set(log) for log in logs)
        evaluations = [log for log in trainer.state.log_history if "eval_loss" in log]
        assert len(evaluations) == 6 and all(f"eval_{figure}" in log for log in evaluations for figure in figures)
        assert evaluations[-1]["eval_loss"] < evaluations[0]["eval_loss"]
        assert evaluations[-1]["eval_explained_variance"] > evaluations[0]["eval_explained_variance"]
        assert all("revived_codes" not in log for log in logs)
        assert_equal_states(before, state(trainer.host))

    def test_logged_loss_is_the_sum_of_its_logged_terms(self, make_trainer):
        trainer = make_trainer()
        trainer.train()
        for log in trainer.state.log_history:
            if "loss" in log:
                expected = log["reconstruction_loss"] + 0.1 * log["commitment_loss"]
                assert log["loss"] == pytest.approx(expected, rel=1e-4)

    def test_evaluation_is_over_tokens_not_over_batches(self, make_trainer, make_args, host, tokenizer, texts):
        trainer = make_trainer()
        trainer.initialize_codebook()
        metrics = trainer.evaluate(texts)
        model = trainer.model.eval()
        errors, targets, codes = [], [], []
        for text in texts["text"]:
            encoded = tokenizer(text, return_tensors="pt")
            states = host(**encoded, output_hidden_states=True).hidden_states
            with torch.no_grad():
                output = model(states[1])
            inner = slice(1, -1)  # [CLS] and [SEP] do not count
            errors.append((output.reconstruction - states[3])[0, inner])
            targets.append(states[3][0, inner])
            codes.append(output.codes[0, inner])
        errors, targets, codes = torch.cat(errors), torch.cat(targets), torch.cat(codes)
        assert metrics["eval_reconstruction_loss"] == pytest.approx(errors.square().mean().item(), rel=1e-4)
        ratio = errors.square().sum() / (targets - targets.mean(0)).square().sum()
        assert metrics["eval_explained_variance"] == pytest.approx(1 - ratio.item(), abs=1e-4)
        frequencies = torch.bincount(codes) / len(codes)
        assert metrics["eval_perplexity"] == pytest.approx(
            torch.special.entr(frequencies).sum().exp().item(), rel=1e-4
        )
        assert metrics["eval_active_codes"] == len(codes.unique())

    def test_the_same_seed_gives_the_same_model(self, make_trainer):
        states = []
        for _ in range(2):
            trainer = make_trainer()
            trainer.train()
            states.append(state(trainer.model))
        assert_equal_states(*states)
        other = make_trainer(seed=1)
        other.train()
        assert not torch.equal(other.model.state_dict()["quantizer.ema_sums"], states[0]["quantizer.ema_sums"])

    def test_the_codebook_moves_once_an_optimizer_step(self, make_trainer, monkeypatch):
        trainer = make_trainer(gradient_accumulation_steps=2, num_train_epochs=1, per_device_train_batch_size=4)
        updates = []
        original = trainer.model.update_codebook
        monkeypatch.setattr(trainer.model, "update_codebook", lambda: updates.append(original()) or updates[-1])
        trainer.train()
        assert len(updates) == trainer.state.global_step == 8

    def test_accumulation_gives_the_step_of_the_whole_batch(self, make_trainer, make_model):
        accumulation_agrees(make_trainer, lambda: make_model(top_k=1, dropout=0.0))

    def test_a_split_batch_gives_the_step_of_the_whole_batch(self, make_trainer, make_model, monkeypatch):
        results, forwards = {}, []
        original = CLVQModel.forward
        monkeypatch.setattr(CLVQModel, "forward", lambda self, *a, **b: forwards.append(1) or original(self, *a, **b))
        for limit in (4096, 100, 1):
            forwards.clear()
            trainer = make_trainer(
                make_model(top_k=1, dropout=0.0),
                max_forward_tokens=limit,
                max_steps=7,
                optim="sgd",
                learning_rate=0.1,
                eval_strategy="steps",
                eval_steps=7,
                eval_dataset=Dataset.from_dict({"text": ["a film", "a dull film that is far too long"]}),
            )
            trainer.train()
            logs = [{name: log[name] for name in log if not name.endswith(("runtime", "second"))}
                    for log in trainer.state.log_history[:-1]]  # fmt: skip
            results[limit] = state(trainer.model), logs, len(forwards)
        whole, logs, num_forwards = results.pop(4096)
        assert num_forwards == 7 + 1
        for limit, (split, split_logs, num) in results.items():
            assert num == 7 * 8 + 2 if limit == 1 else num_forwards < num < 7 * 8
            for name, tensor in whole.items():
                assert torch.allclose(tensor.float(), split[name].float(), atol=2e-5), name
            for log, split_log in zip(logs, split_logs, strict=True):
                assert split_log == pytest.approx(log, rel=1e-3, abs=1e-4)

    def test_special_tokens_do_not_train_unless_asked(self, make_trainer, texts, tokenizer):
        tokens = sum(len(ids) for ids in tokenizer(texts["text"][:])["input_ids"])
        for asked, expected in ((False, tokens - 2 * len(texts)), (True, tokens)):
            trainer = make_trainer(train_special_tokens=asked)
            assert np.sum(trainer.train_dataset["num_counted"]) == expected

    def test_token_filter_of_the_paper(self, make_trainer):
        trainer = make_trainer(min_token_occurrences=2, max_token_occurrences=5, eval_dataset=None)
        rows = trainer.train_dataset
        counts = np.bincount(np.concatenate([np.asarray(row["input_ids"]) for row in rows]))
        for row in rows:
            for token, counted in zip(row["input_ids"], row["token_mask"], strict=True):
                assert counted == (2 <= counts[token] <= 5)

    def test_revival_is_logged(self, make_trainer, make_model):
        trainer = make_trainer(make_model(revive_after=1, codebook_size=60), num_train_epochs=2)
        trainer.train()
        revived = [log["revived_codes"] for log in trainer.state.log_history if "revived_codes" in log]
        assert len(revived) == trainer.state.global_step and sum(revived) > 0

    def test_bf16_autocast_keeps_the_codebook_in_float32(self, make_trainer, texts):
        trainer = make_trainer(bf16=True, max_steps=3)
        trainer.train()
        assert trainer.model.quantizer.ema_sums.dtype == torch.float32
        batch = next(iter(trainer.get_eval_dataloader(texts)))
        inputs = trainer._prepare_inputs(batch)
        model = trainer.model.eval()
        codes = model(**inputs).codes
        assert torch.equal(codes, model.encode(inputs["hidden_states"], inputs["attention_mask"]))

    @pytest.mark.parametrize(
        ("fields", "arguments"),
        [
            ({}, {}),
            ({}, {"train_special_tokens": True}),
            ({"encoder": "linear", "codebook_space": "predictive"}, {}),
            ({"encoder": "linear", "codebook_space": "residual"}, {"init_tokens": 10_000}),
            ({"encoder": "frozen", "codebook_space": "functional"}, {}),
        ],
        ids=str,
    )
    def test_from_activations_as_from_texts(
        self, make_trainer, make_model, make_args, host, tokenizer, texts, tmp_path, fields, arguments
    ):
        fields = {"top_k": 1, "dropout": 0.0, **fields}
        model = make_model(**fields)
        trainer = make_trainer(model, max_steps=4, **arguments)
        trainer.train()
        cache = ActivationCache.build(tmp_path / "cache", host, tokenizer, texts, lower_layer=1, upper_layer=3)
        again = CLVQTrainer(model=make_model(**fields), args=make_args(max_steps=4, **arguments), train_dataset=cache)
        again.train()
        for name, tensor in state(model).items():
            assert torch.allclose(tensor.float(), state(again.model)[name].float(), atol=1e-3), name

    def test_the_functional_space_is_that_of_the_host(self, make_trainer, make_model, host, tokenizer):
        trainer = make_trainer(make_model(encoder="linear", codebook_space="functional"), max_steps=1)
        trainer.initialize_codebook()
        sensitivity = upper_sensitivity(host, tokenizer, trainer.train_dataset, 1, 3).double()
        found = trainer.model.encoder.weight.double()
        squared = found.T @ found
        torch.testing.assert_close(squared / squared.trace(), sensitivity / sensitivity.trace(), atol=1e-4, rtol=1e-2)

    def test_a_decoder_that_says_less_than_its_codes_is_told(self, make_trainer, texts, caplog):
        trainer = make_trainer(max_steps=1, eval_dataset=texts.select(range(20)), eval_strategy="steps", eval_steps=1)
        trainer.train()
        assert "less than the mean state of each code" not in caplog.text, "not while it is trained"
        figures = trainer.evaluate()
        assert figures["eval_explained_variance"] < figures["eval_code_explained_variance"]
        assert "less than the mean state of each code" in caplog.text

    def test_frozen_codes_stay_where_they_start(self, make_trainer, make_model):
        trainer = make_trainer(make_model(encoder="frozen", codebook_space="predictive"), max_steps=4)
        trainer.initialize_codebook()
        before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
        trainer.train()
        after = trainer.model.state_dict()
        moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
        assert moved and all(name.startswith("decoder.") for name in moved)

    def test_a_linear_encoder_learns_and_its_codes_are_means_of_host_states(self, make_trainer, make_model, host):
        model = make_model(encoder="linear", codebook_space="states", top_k=1, ema_decay=0.0)
        trainer = make_trainer(model, max_steps=3, per_device_train_batch_size=60)
        trainer.initialize_codebook()
        start = model.encoder.weight.clone()
        trainer.train()
        assert not torch.allclose(model.encoder.weight, start)
        # Without a memory (γ = 0) they are the means of the last batch, which was of all texts.
        assert model.member_means.shape == model.codebook.shape
        torch.testing.assert_close(model.codebook, model.member_means)
        used = model.quantizer.ema_counts > 1
        encoded = model.encoder(model.member_means)
        # An affine map of means is the mean of the map, but for the last step of the encoder.
        assert (encoded - model.quantizer.codebook)[used].norm() < 0.05 * model.quantizer.codebook[used].norm()

    def test_what_a_cache_filters_is_what_the_texts_do(self, make_trainer, make_args, make_model, build_cache):
        occurrences = {"min_token_occurrences": 2, "max_token_occurrences": 5}
        streamed = make_trainer(make_model(top_k=1, dropout=0.0), max_steps=3, eval_dataset=None, **occurrences)
        texts = make_trainer().train_dataset
        assert np.sum(streamed.train_dataset["num_counted"]) < np.sum(texts["num_counted"])
        streamed.train()
        cache = build_cache()
        cached = CLVQTrainer(
            model=make_model(top_k=1, dropout=0.0), args=make_args(max_steps=3, **occurrences), train_dataset=cache
        )
        assert cached.train_dataset.num_counted.tolist() == streamed.train_dataset["num_counted"][:]
        cached.train()
        for name, tensor in state(streamed.model).items():
            assert torch.allclose(tensor.float(), state(cached.model)[name].float(), atol=1e-4), name
        # Figures of held-out texts are of all their tokens.
        assert cached._prepare_dataset(cache).num_counted.sum() == np.sum(texts["num_counted"])

    def test_attention_sinks_count_for_nothing(self, make_trainer, make_args, make_model, host, build_cache):
        # On the states of the texts and on those of a cache, with an optimizer that a wrong divisor does not escape.
        fields = {"max_steps": 3, "optim": "sgd", "learning_rate": 0.1, "gradient_accumulation_steps": 2}
        fields["init_tokens"] = 10_000  # all of them
        with grown(host):
            streamed = make_trainer(make_model(top_k=1, dropout=0.0), **fields)
            streamed.train()
            cache = build_cache()
        tokens = np.sum(streamed.train_dataset["num_counted"])
        assert cache.num_counted.sum() == tokens - len(cache), "one in each text"
        cached = CLVQTrainer(model=make_model(top_k=1, dropout=0.0), args=make_args(**fields), train_dataset=cache)
        cached.train()
        for name, tensor in state(streamed.model).items():
            assert torch.allclose(tensor.float(), state(cached.model)[name].float(), atol=1e-5), name
        assert streamed.model.codebook.norm(dim=-1).max() < 20, "no code is at a sink"
        for first, second in zip(streamed.state.log_history, cached.state.log_history, strict=True):
            for name in set(first) & {"loss", "reconstruction_loss", "explained_variance", "perplexity"}:
                assert first[name] == pytest.approx(second[name], rel=1e-4), name
            if "loss" in first:
                expected = first["reconstruction_loss"] + 0.1 * first["commitment_loss"]
                assert first["loss"] == pytest.approx(expected, rel=1e-4)

    def test_the_order_has_a_seed_of_its_own(self, make_trainer):
        orders = []
        for fields in ({"seed": 1, "data_seed": 5}, {"seed": 2, "data_seed": 5}, {"seed": 1, "data_seed": 6}):
            orders.append(list(make_trainer(**fields)._get_train_sampler()))
        assert orders[0] == orders[1] != orders[2]

    def test_evaluation_does_not_change_what_training_draws(self, make_trainer, texts):
        trainer = make_trainer()
        trainer.initialize_codebook()
        before = torch.random.get_rng_state()
        trainer.evaluate(texts)
        assert torch.equal(before, torch.random.get_rng_state())

    def test_predict_takes_texts(self, make_trainer, texts):
        trainer = make_trainer()
        trainer.initialize_codebook()
        assert trainer.predict(texts).metrics["test_loss"] == pytest.approx(trainer.evaluate(texts)["eval_loss"])

    def test_a_step_that_was_broken_off_leaves_nothing_behind(self, make_trainer, make_model):
        states = []
        for stray in (False, True):
            trainer = make_trainer(make_model(top_k=1, dropout=0.0), max_steps=2)
            if stray:
                trainer.model.train()(torch.randn(2, 5, 32))
            trainer.train()
            states.append(state(trainer.model))
        assert_equal_states(*states)

    def test_the_host_is_read_in_evaluation_mode_and_left_as_it_was(self, make_trainer, host):
        trainer = make_trainer(max_steps=1)
        host.train()
        batch = next(iter(trainer.get_train_dataloader()))
        first, second = trainer._prepare_inputs(batch), trainer._prepare_inputs(batch)
        assert torch.equal(first["hidden_states"], second["hidden_states"])
        assert host.training

    @pytest.mark.slow
    def test_workers_that_are_spawned(self, make_trainer):
        make_trainer(max_steps=2, dataloader_num_workers=1, dataloader_multiprocessing_context="spawn").train()

    @pytest.mark.slow
    def test_a_causal_host(self, make_args, make_model, causal_host, tokenizer, texts):
        trainer = CLVQTrainer(
            model=make_model(is_causal=True, upper_layer=4),
            host=causal_host,
            args=make_args(max_steps=3),
            train_dataset=texts,
            processing_class=tokenizer,
        )
        trainer.train()
        assert np.isfinite(trainer.evaluate(texts)["eval_loss"])


class TestSeamsOfTransformers:
    """Methods of the Trainer that ours override: if one is renamed or changes its arguments, ours is not called."""

    @pytest.mark.parametrize(
        "name",
        [
            *("_get_train_sampler", "_prepare_inputs", "_get_num_items_in_batch", "_save", "_push_from_checkpoint"),
            *("get_batch_samples", "get_eval_dataloader", "evaluation_loop", "get_decay_parameter_names"),
            *(
                "get_optimizer_cls_and_kwargs",
                "create_model_card",
                "init_hf_repo",
                "save_model",
                "compute_loss",
                "log",
            ),
        ],
    )
    def test_has_the_arguments_that_transformers_passes(self, name):
        theirs = inspect.signature(getattr(Trainer, name)).parameters
        ours = inspect.signature(getattr(CLVQTrainer, name)).parameters
        assert getattr(CLVQTrainer, name) is not getattr(Trainer, name)
        accepts_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in ours.values())
        assert accepts_any or list(ours)[: len(theirs)] == list(theirs)

    @pytest.mark.parametrize(
        ("caller", "name"),
        [
            ("get_train_dataloader", "_get_train_sampler"),
            ("training_step", "_prepare_inputs"),
            ("get_batch_samples", "_get_num_items_in_batch"),
            ("save_model", "_save"),
            ("_save_checkpoint", "_push_from_checkpoint"),
        ],
    )
    def test_is_still_called(self, caller, name):
        assert name in inspect.getsource(getattr(Trainer, caller))


class TestInitialisation:
    def test_happens_before_the_first_step_and_once(self, make_trainer):
        seen = []

        class Watch(TrainerCallback):
            def on_step_begin(self, args, state, control, model=None, **kwargs):
                seen.append((model.is_initialized, model.codebook.clone()))

        trainer = make_trainer(callbacks=[Watch()])
        fresh = trainer.model.codebook.clone()
        trainer.train()
        assert seen[0][0] and not torch.allclose(seen[0][1], fresh)
        codebook = trainer.model.codebook.clone()
        trainer.initialize_codebook()
        assert torch.equal(trainer.model.codebook, codebook)

    def test_codes_lie_among_the_encoder_states(self, make_trainer, make_model, host, tokenizer, texts):
        trainer = make_trainer(make_model(codebook_init="random"))
        trainer.initialize_codebook()
        states = []
        for text in texts["text"]:
            encoded = tokenizer(text, return_tensors="pt")
            states.append(host(**encoded, output_hidden_states=True).hidden_states[1][0, 1:-1])
        encoded = trainer.model.encoder(torch.cat(states))
        distances = (trainer.model.quantizer.codebook[:, None] - encoded).norm(dim=-1).min(1).values
        assert distances.max() < 1e-4, "and special tokens are not among them"

    def test_is_seeded_and_leaves_the_global_generator_alone(self, make_trainer):
        codebooks = []
        for seed in (0, 0, 1):
            trainer = make_trainer(seed=seed)
            before = torch.random.get_rng_state()
            trainer.initialize_codebook()
            assert torch.equal(before, torch.random.get_rng_state())
            codebooks.append(trainer.model.codebook)
        assert torch.equal(codebooks[0], codebooks[1])
        assert not torch.equal(codebooks[0], codebooks[2])


class TestResume:
    @pytest.mark.parametrize("interrupted_at", [3, 8])
    def test_a_resumed_run_is_the_uninterrupted_one(self, make_trainer, tmp_path, interrupted_at):
        # In the middle of an epoch, and at the border of two; with dropout and sampling, so the generators count.
        fields = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 100, "learning_rate": 1e-2}
        whole = make_trainer(output_dir=str(tmp_path / "whole"), **fields)
        whole.train()

        class Interrupt(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                control.should_training_stop = control.should_save = state.global_step >= interrupted_at

        partial = make_trainer(output_dir=str(tmp_path / "partial"), callbacks=[Interrupt()], **fields)
        partial.train()
        assert partial.state.global_step == interrupted_at
        resumed = make_trainer(output_dir=str(tmp_path / "partial"), **fields)
        resumed.train(resume_from_checkpoint=True)
        assert resumed.state.global_step == whole.state.global_step == 16
        assert_equal_states(state(whole.model), state(resumed.model))

    @pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
    def test_a_checkpoint_cannot_run_code(self, make_trainer, tmp_path, name):
        class Evil:
            def __reduce__(self):
                return Path.touch, (tmp_path / "ran",)

        make_trainer(save_strategy="steps", save_steps=2, max_steps=2).train()
        torch.save(Evil(), tmp_path / "out" / "checkpoint-2" / name)
        (
            tmp_path / "out" / "checkpoint-2" / "checksums.json"
        ).unlink()  # whoever changes a checkpoint can do that, too
        with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
            make_trainer(max_steps=4).train(resume_from_checkpoint=True)
        assert not (tmp_path / "ran").exists()

    def test_a_checkpoint_loads_with_from_pretrained(self, make_trainer, tmp_path):
        trainer = make_trainer(save_strategy="epoch")
        trainer.train()
        last = tmp_path / "out" / "checkpoint-16"
        assert_equal_states(state(trainer.model), state(CLVQModel.from_pretrained(last)))
        assert not (last / "training_args.bin").exists(), "no pickle of the arguments"
        assert json.loads((last / "training_args.json").read_text())["learning_rate"] == 1e-3
        assert (last / "tokenizer.json").is_file()

    def test_the_best_model_is_not_the_last_one(self, make_trainer, texts):
        # References to the live state dict would make it so.
        trainer = make_trainer(
            eval_dataset=texts.select(range(20)),
            eval_strategy="epoch",
            save_strategy="epoch",
            load_best_model_at_end=True,
            metric_for_best_model="loss",
            num_train_epochs=3,
        )
        losses = iter([1.0, 3.0, 2.0])
        original = trainer.evaluation_loop
        weights = []

        def spoiled(*args, **kwargs):
            output = original(*args, **kwargs)
            output.metrics["eval_loss"] = next(losses)
            weights.append(state(trainer.model))
            return output

        trainer.evaluation_loop = spoiled
        trainer.train()
        assert_equal_states(weights[0], state(trainer.model))
        assert not torch.equal(weights[0]["decoder.head.weight"], weights[2]["decoder.head.weight"])


class TestDistancesToTheCodes:
    """Their quantiles are those of the training tokens, by the codes as they are at the end."""

    @pytest.mark.parametrize("source", ["texts", "cache"])
    def test_are_recorded_at_the_end(self, source, make_trainer, build_cache, texts, tmp_path):
        cache = build_cache()
        train = {"train_dataset": cache} if source == "cache" else {}
        trainer = make_trainer(save_strategy="steps", save_steps=10, max_steps=15, init_tokens=10_000, **train)
        trainer.train()
        model = trainer.model.eval()
        found = model.distance_quantiles
        states = cache.counted("hidden_states")
        codes, distances = model.encode(states[None])[0], model.distances(states[None])[0]
        assert found.counts.tolist() == torch.bincount(codes, minlength=12).tolist()
        np.testing.assert_allclose(found.overall, np.quantile(distances, found.levels), rtol=1e-4)
        # The last checkpoint was written before; an earlier one has other codes.
        earlier, last = (ConceptModel.from_pretrained(tmp_path / "out" / f"checkpoint-{step}") for step in (10, 15))
        np.testing.assert_array_equal(last.distance_quantiles.quantiles, found.quantiles)
        assert earlier.distance_quantiles is None

    def test_are_of_a_bounded_sample(self, make_trainer):
        trainer = make_trainer(max_steps=1, init_tokens=50)
        trainer.train()
        assert trainer.model.distance_quantiles.counts.sum() == 50

    def test_are_measured_anew_after_further_training(self, make_trainer, tmp_path):
        trainer = make_trainer(max_steps=1)
        trainer.train()
        trainer.save_model(tmp_path / "first")
        model = ConceptModel.from_pretrained(tmp_path / "first")
        before = model.distance_quantiles
        make_trainer(model, max_steps=3).train()
        assert before.fingerprint != model.distance_quantiles.fingerprint == model.fingerprint()

    def test_do_not_cost_a_trained_model(self, make_trainer, monkeypatch, caplog):
        trainer = make_trainer(max_steps=1)
        monkeypatch.setattr(type(trainer.model), "distances", lambda *args, **kwargs: 1 / 0)
        trainer.train()
        assert trainer.model.distance_quantiles is None
        assert "No distances to the codes are recorded: ZeroDivisionError" in caplog.text


class TestSparseDictionaries:
    """They are trained on the same states, in the same order, by the same trainer."""

    def test_learns_and_logs_every_figure(self, make_trainer, make_sparse, texts):
        figures = ("reconstruction_loss", "sparsity_loss", "num_active", "explained_variance", "perplexity")
        lengths = []

        class Watch(TrainerCallback):
            def on_step_end(self, args, state, control, model=None, **kwargs):
                lengths.append(model.decoder.weight.norm(dim=-1).detach().clone())

        trainer = make_trainer(
            make_sparse(sparsity_cost=0.01),
            callbacks=[Watch()],
            eval_dataset=texts.select(range(20)),
            eval_strategy="epoch",
            num_train_epochs=5,
            learning_rate=1e-2,
        )
        trainer.train()
        logs = [log for log in trainer.state.log_history if "loss" in log]
        assert all({*figures, "active_codes"} <= set(log) and "revived_codes" not in log for log in logs)
        evaluations = [log for log in trainer.state.log_history if "eval_loss" in log]
        assert len(evaluations) == 5 and all(f"eval_{figure}" in log for log in evaluations for figure in figures)
        assert evaluations[-1]["eval_loss"] < 0.9 * evaluations[0]["eval_loss"]
        assert evaluations[-1]["eval_explained_variance"] > evaluations[0]["eval_explained_variance"] + 0.05
        assert len(lengths) == trainer.state.global_step
        for each in lengths:
            torch.testing.assert_close(each, torch.ones(24))

    def test_logged_loss_is_the_sum_of_its_logged_terms(self, make_trainer, make_sparse):
        trainer = make_trainer(make_sparse(sparsity_cost=0.3))
        trainer.train()
        scale = trainer.model.decoder.output_scale.item()
        logs = [log for log in trainer.state.log_history if "loss" in log]
        for log in logs:
            expected = scale**2 * log["reconstruction_loss"] + 0.3 * log["sparsity_loss"]
            assert log["loss"] == pytest.approx(expected, rel=1e-4)
        assert len(logs) == trainer.state.global_step

    def test_starts_from_states_of_the_training_set(self, make_trainer, make_sparse, host, tokenizer, texts):
        trainer = make_trainer(make_sparse())
        trainer.initialize_codebook()
        states = []
        for text in texts["text"]:
            encoded = tokenizer(text, return_tensors="pt")
            found = host(**encoded, output_hidden_states=True).hidden_states
            states.append(torch.cat([found[1][0, 1:-1], found[3][0, 1:-1]], dim=-1))
        lower, upper = torch.cat(states).detach().split(32, dim=-1)
        model = trainer.model
        assert model.is_initialized
        # The sample is all of it, for 24 neurons ask for 2,400 tokens.
        torch.testing.assert_close(model.mean_state, lower.mean(0), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            (model.decoder.bias / model.decoder.output_scale).detach(), upper.mean(0), atol=1e-4, rtol=1e-4
        )
        centred = model.encoder.centred(lower)
        assert centred.square().sum(-1).mean().item() == pytest.approx(32, rel=1e-3)

    def test_from_activations_as_from_texts(
        self, make_trainer, make_sparse, make_args, host, tokenizer, texts, tmp_path
    ):
        fields = {"activation": "topk", "num_active": 3}
        trainer = make_trainer(make_sparse(**fields), max_steps=4)
        trainer.train()
        cache = ActivationCache.build(tmp_path / "cache", host, tokenizer, texts, lower_layer=1, upper_layer=3)
        again = CLVQTrainer(model=make_sparse(**fields), args=make_args(max_steps=4), train_dataset=cache)
        again.train()
        for name, tensor in state(trainer.model).items():
            assert torch.allclose(tensor.float(), state(again.model)[name].float(), atol=1e-4), name

    def test_accumulation_gives_the_step_of_the_whole_batch(self, make_trainer, make_sparse):
        accumulation_agrees(make_trainer, lambda: make_sparse(sparsity_cost=0.01))

    def test_revival_is_logged(self, make_trainer, make_sparse):
        model = make_sparse(codebook_size=60, activation="topk", num_active=1, revive_after=2)
        trainer = make_trainer(model)
        trainer.train()
        revived = [log["revived_codes"] for log in trainer.state.log_history if "revived_codes" in log]
        assert len(revived) == trainer.state.global_step and revived[0] == 0 and sum(revived) > 0

    def test_a_resumed_run_is_the_uninterrupted_one(self, make_trainer, make_sparse, tmp_path):
        interrupted_at = 3
        # With revival, which counts steps and draws tokens.
        fields = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 16, "learning_rate": 1e-2}

        def model() -> SparseDictionary:
            return make_sparse(codebook_size=60, activation="topk", num_active=1, revive_after=2)

        whole = make_trainer(model(), output_dir=str(tmp_path / "whole"), **fields)
        whole.train()

        class Interrupt(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                control.should_training_stop = control.should_save = state.global_step >= interrupted_at

        partial = make_trainer(model(), output_dir=str(tmp_path / "partial"), callbacks=[Interrupt()], **fields)
        partial.train()
        assert partial.state.global_step == interrupted_at
        resumed = make_trainer(model(), output_dir=str(tmp_path / "partial"), **fields)
        resumed.train(resume_from_checkpoint=True)
        assert resumed.state.global_step == whole.state.global_step == 16
        assert_equal_states(state(whole.model), state(resumed.model))
        last = tmp_path / "partial" / "checkpoint-16"
        loaded = SparseDictionary.from_pretrained(last)
        assert_equal_states(state(resumed.model), state(loaded))
        assert loaded.verify(resumed.host, resumed.tokenizer), "a checkpoint brings its reference texts"

    @pytest.mark.slow
    @pytest.mark.parametrize(("kind", "layers"), [("sae", (3, 3)), ("transcoder", (2, 4))])
    def test_learns_the_states_of_a_real_model(
        self, make_args, minilm_dir, tokenizer, all_texts, tmp_path, kind, layers
    ):
        host = AutoModel.from_pretrained(minilm_dir).eval()
        caches = [
            ActivationCache.build(
                tmp_path / str(rows.start),
                host,
                tokenizer,
                all_texts.select(rows),
                lower_layer=layers[0],
                upper_layer=layers[1],
            )
            for rows in (range(300), range(300, 360))
        ]
        sparsity = {"sparsity_cost": 0.02} if kind == "sae" else {}
        config = getattr(SparseConfig, kind)(host, *layers, codebook_size=512, **sparsity)
        trainer = CLVQTrainer(
            model=SparseDictionary(config),
            args=make_args(num_train_epochs=4, eval_strategy="epoch", learning_rate=3e-3, logging_steps=20),
            train_dataset=caches[0],
            eval_dataset=caches[1],
        )
        trainer.initialize_codebook()
        before = trainer.evaluate()
        trainer.train()
        after = trainer.evaluate()
        assert after["eval_loss"] < 0.8 * before["eval_loss"]
        assert after["eval_explained_variance"] > max(0.3, before["eval_explained_variance"] + 0.2)
        if kind == "transcoder":
            assert after["eval_num_active"] <= 32
        assert after["eval_active_codes"] > 50


class TestPresets:
    def test_encoder_and_decoder(self, tmp_path):
        encoder = CLVQTrainingArguments.paper_encoder(str(tmp_path))
        decoder = CLVQTrainingArguments.paper_decoder(str(tmp_path), num_train_epochs=7)
        assert (encoder.learning_rate, encoder.per_device_train_batch_size) == (5e-3, 128)
        assert (decoder.learning_rate, decoder.per_device_train_batch_size, decoder.num_train_epochs) == (1e-3, 64, 7)
        for args in (encoder, decoder):
            assert (args.weight_decay, args.max_grad_norm) == (1e-4, 0.0)
            assert (args.min_token_occurrences, args.max_token_occurrences) == (5, 20)

    @pytest.mark.slow
    def test_train_with_adam_and_a_plateau(self, make_model, host, tokenizer, texts, tmp_path):
        args = CLVQTrainingArguments.paper_encoder(
            str(tmp_path), num_train_epochs=2, min_token_occurrences=1, max_token_occurrences=None, use_cpu=True
        )
        trainer = CLVQTrainer(
            model=make_model(),
            host=host,
            args=args,
            train_dataset=texts,
            eval_dataset=texts,
            processing_class=tokenizer,
        )
        trainer.train()
        assert type(trainer.optimizer.optimizer) is torch.optim.Adam
        assert all(group["weight_decay"] == 1e-4 for group in trainer.optimizer.param_groups if group["params"])
        assert isinstance(trainer.lr_scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
        assert (trainer.lr_scheduler.factor, trainer.lr_scheduler.patience) == (0.5, 5)


def test_nothing_is_left_of_twenty_runs(make_trainer, host):
    """Neither open files, nor threads, nor hooks of the host."""

    def used() -> tuple[int, int, int]:
        make_trainer(max_steps=1).train()
        gc.collect()
        hooks_left = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in host.modules())
        return psutil.Process().num_fds(), threading.active_count(), hooks_left

    before = used()
    for _ in range(19):
        after = used()
    assert after == before and after[2] == 0


class TestBadInput:
    def test_texts_without_a_host(self, make_model, make_args, texts):
        with pytest.raises(ValueError, match="pass host=… and processing_class=…"):
            CLVQTrainer(model=make_model(), args=make_args(), train_dataset=texts)

    def test_a_host_of_another_width_names_both(self, make_trainer, make_model):
        with pytest.raises(ValueError, match=r"hidden_size=16 in the config, but layer 1 .* 32 wide"):
            make_trainer(make_model(hidden_size=16))

    def test_layers_out_of_range(self, make_trainer, make_model):
        with pytest.raises(ValueError, match="4 blocks"):
            make_trainer(make_model(upper_layer=9))

    def test_evaluation_before_there_is_a_codebook(self, make_trainer, texts):
        with pytest.raises(ValueError, match=r"trainer\.initialize_codebook"):
            make_trainer().evaluate(texts)

    def test_no_layers_in_the_config(self, make_trainer, make_model):
        with pytest.raises(ValueError, match="from_host"):
            make_trainer(make_model(lower_layer=None, upper_layer=None))

    def test_a_codebook_larger_than_the_training_set(self, make_trainer, make_model, texts, tokenizer):
        tokens = sum(len(ids) - 2 for ids in tokenizer(texts["text"][:])["input_ids"])
        with pytest.raises(ValueError, match=rf"codebook_size=5000 .* {tokens} tokens"):
            make_trainer(make_model(codebook_size=5000))

    def test_labels_out_of_range(self, make_trainer):
        with pytest.raises(ValueError, match=r"are 0, 5; the host's classes are 0.*leave the column out"):
            make_trainer(train_dataset=Dataset.from_dict({"text": ["good", "bad"], "label": [0, 5]}))

    def test_a_missing_text_column(self, make_trainer, texts):
        with pytest.raises(ValueError, match=r"no column 'text'; it has \['sentence', 'label'\]"):
            make_trainer(train_dataset=texts.rename_column("text", "sentence"))
        make_trainer(train_dataset=texts.rename_column("text", "sentence"), text_column="sentence")

    def test_an_empty_dataset(self, make_trainer, texts):
        with pytest.raises(ValueError, match="empty"):
            make_trainer(train_dataset=texts.select([]))

    def test_nan_in_the_loss_stops_the_run(self, make_trainer):
        trainer = make_trainer(max_steps=3)
        with torch.no_grad():
            next(trainer.model.decoder.parameters()).view(-1)[0] = float("nan")
        with pytest.raises(ValueError, match=r"loss is nan after 0 steps.*learning_rate"):
            trainer.train()

    def test_nan_in_the_host_stops_the_run_with_the_texts(self, make_trainer, host, texts, tokenizer):
        trainer = make_trainer()
        trainer.initialize_codebook()
        ids = [set(row) for row in tokenizer(texts["text"][:])["input_ids"]]
        only_in_text_11 = (ids[11] - set().union(*ids[:11], *ids[12:])).pop()
        with torch.no_grad():
            host.bert.embeddings.word_embeddings.weight[only_in_text_11] = float("nan")
        with pytest.raises(ValueError, match=r"hidden_states of the batch after step \d+, in the texts .* \[11\]"):
            trainer.train()
        assert all(torch.isfinite(tensor).all() for tensor in state(trainer.model).values())

    def test_a_foreign_checkpoint_in_the_output_directory(self, make_trainer, host, tmp_path):
        host.save_pretrained(tmp_path / "out" / "checkpoint-5")
        with pytest.raises(ValueError, match=r"checkpoint-5 holds a checkpoint of a model of the type 'bert'"):
            make_trainer()

    def test_another_host_of_the_same_size_in_the_output_directory(self, make_model, tmp_path):
        make_model(host_name_or_path="me/first").save_pretrained(tmp_path / "checkpoint-5")
        for name in ("me/first", None):
            check_output_dir(tmp_path, make_model(host_name_or_path=name).config)
        with pytest.raises(ValueError, match=r"host_name_or_path=me/first \(not me/second\)"):
            check_output_dir(tmp_path, make_model(host_name_or_path="me/second").config)

    def test_another_concept_model_in_the_output_directory(self, make_trainer, make_model, tmp_path):
        make_model(codebook_size=7).save_pretrained(tmp_path / "out")
        with pytest.raises(ValueError, match=r"codebook_size=7 \(not 12\)"):
            make_trainer()

    @pytest.mark.parametrize("content", ["[]", "not json", None])
    def test_what_is_no_checkpoint_of_ours(self, make_trainer, tmp_path, content):
        folder = tmp_path / "out" / "checkpoint-3"
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{}")
        if content is not None:
            (folder / "config.json").write_text(content)
        with pytest.raises(ValueError, match=r"checkpoint-3 holds a checkpoint of something else, .* no config\.json"):
            make_trainer()

    def test_a_file_for_an_output_directory(self, make_trainer, tmp_path):
        (tmp_path / "out").touch()
        with pytest.raises(ValueError, match="is a file"):
            make_trainer()

    def test_a_model_that_is_none(self, make_args):
        with pytest.raises(ValueError, match="must be a concept model, got NoneType"):
            CLVQTrainer(model=None, args=make_args())

    def test_labels_that_are_no_classes_are_no_concern_of_a_regression(self, make_trainer, host):
        host.config.problem_type = "regression"
        make_trainer(
            train_dataset=Dataset.from_dict({"text": ["good film", "bad plot twist"] * 9, "label": [0.5, 7.0] * 9})
        )

    def test_our_own_checkpoint_is_welcome(self, make_trainer, make_model, tmp_path):
        make_model().save_pretrained(tmp_path / "out")
        make_trainer()

    @pytest.mark.slow
    def test_a_cache_of_other_layers(self, make_args, make_model, host, tokenizer, texts, tmp_path):
        cache = ActivationCache.build(tmp_path / "cache", host, tokenizer, texts, lower_layer=1, upper_layer=4)
        with pytest.raises(ValueError, match="upper_layer=3 in the config, but 4 in the activation cache"):
            CLVQTrainer(model=make_model(), args=make_args(), train_dataset=cache)

    @pytest.mark.slow
    def test_the_texts_that_are_trained_on_are_noted(self, make_args, make_model, host, tokenizer, texts, tmp_path):
        few, args = texts.select(range(20)), make_args()
        few = concatenate_datasets([few, Dataset.from_dict({"text": [""], "label": [0]}, few.features)])
        cache = ActivationCache.build(tmp_path / "cache", host, tokenizer, few, lower_layer=1, upper_layer=3)
        trainers = [
            CLVQTrainer(make_model(), host, args, train_dataset=few, processing_class=tokenizer),
            CLVQTrainer(make_model(), args=args, train_dataset=cache),
        ]
        for trainer in trainers:
            trainer.record_training()
            assert trainer.model.count_trained_on([*texts["text"][:], ""]) == 20

    @pytest.mark.slow
    def test_a_cache_of_another_host(self, make_args, make_model, host, tokenizer, texts, tmp_path):
        few, model, layers = texts.select(range(20)), make_model(), {"lower_layer": 1, "upper_layer": 3}
        cache = ActivationCache.build(tmp_path / "cache", host, tokenizer, few, **layers)
        with torch.no_grad():
            host.bert.embeddings.word_embeddings.weight.neg_()
        with pytest.raises(ValueError, match="is of something else: host"):
            CLVQTrainer(model, host, make_args(), train_dataset=cache, processing_class=tokenizer)
        other = ActivationCache.build(tmp_path / "other", host, tokenizer, few, **layers)
        with pytest.raises(ValueError, match="other is of something else: host"):
            CLVQTrainer(model, args=make_args(), train_dataset=cache, eval_dataset={"held out": other})

    @pytest.mark.slow
    def test_a_stream_is_trained_on_as_far_as_the_steps_need_it(self, make_trainer, make_model, texts):
        """As the dataset of the same texts; the stream has no end."""
        read = []

        def endless():
            for row in itertools.cycle(texts.select(range(30))):
                read.append(row)
                yield {**row, "text": f"{row['text']} {len(read)}"}

        stream = IterableDataset.from_generator(endless)
        streamed = make_trainer(model=make_model(), train_dataset=stream, max_steps=3, num_train_epochs=1)
        assert len(read) <= 25 and len(streamed.train_dataset) == 24
        streamed.train()
        same = [{**row, "text": f"{row['text']} {number}"} for number, row in enumerate(texts.select(range(24)), 1)]
        whole = make_trainer(model=make_model(), train_dataset=Dataset.from_list(same), max_steps=3)
        whole.train()
        for name, tensor in whole.model.state_dict().items():
            assert torch.equal(tensor, streamed.model.state_dict()[name]), name
        assert streamed.model.count_trained_on([row["text"] for row in same]) == 24

    def test_a_stream_needs_a_number_of_steps(self, make_trainer, texts):
        stream = texts.to_iterable_dataset()
        with pytest.raises(ValueError, match="max_steps="):
            make_trainer(train_dataset=stream)
        with pytest.raises(ValueError, match=r"stream\.take"):
            make_trainer(eval_dataset=stream)

    def test_a_method_without_gradients(self, make_args, host, texts, tokenizer):
        model = ClusterModel(ClusterConfig.from_host(host, 1, 3, codebook_size=5))
        with pytest.raises(ValueError, match="A ClusterModel cannot be trained by gradients: call its method fit"):
            CLVQTrainer(model=model, host=host, args=make_args(), train_dataset=texts, processing_class=tokenizer)

    def test_a_codebook_without_its_decoder(self, make_trainer, make_model, make_sparse):
        for model in (make_model(), make_sparse()):
            with pytest.raises(ValueError, match="codebook without its decoder, which training needs"):
                make_trainer(model.codebook_only())

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"activation": "topk", "num_active": 5}, r"activation=topk \(not relu\), num_active=5 \(not None\)"),
            ({"codebook_size": 7}, r"codebook_size=7 \(not 24\)"),
            ({"scale_states": False}, r"scale_states=False \(not True\)"),
        ],
    )
    def test_another_sparse_dictionary_in_the_output_directory(
        self, make_trainer, make_sparse, tmp_path, fields, message
    ):
        make_sparse(**fields).save_pretrained(tmp_path / "out")
        with pytest.raises(ValueError, match=message):
            make_trainer(make_sparse())

    def test_another_method_in_the_output_directory(self, make_trainer, make_sparse, make_model, tmp_path):
        make_model().save_pretrained(tmp_path / "out")
        with pytest.raises(ValueError, match="of the type 'clvq'"):
            make_trainer(make_sparse())

    def test_plain_training_arguments(self, make_model, tmp_path):
        with pytest.raises(ValueError, match="must be CLVQTrainingArguments"):
            CLVQTrainer(model=make_model(), args=TrainingArguments(str(tmp_path)))

    def test_a_list_for_a_dataset(self, make_trainer):
        with pytest.raises(ValueError, match="got list"):
            make_trainer(train_dataset=[{"text": "good"}])

    @pytest.mark.parametrize(
        "fields",
        [
            {"remove_unused_columns": True},
            {"ddp_broadcast_buffers": True},
            {"min_token_occurrences": 9, "max_token_occurrences": 3},
            {"max_length": 0},
            {"average_tokens_across_devices": False},
        ],
    )
    def test_arguments_that_cannot_work(self, make_args, fields):
        with pytest.raises(ValueError):
            make_args(**fields)

    def test_data_parallel_is_refused_with_the_launch_command(self, make_trainer, make_args, monkeypatch):
        monkeypatch.setattr(CLVQTrainingArguments, "n_gpu", property(lambda self: 2))
        with pytest.raises(ValueError, match="accelerate launch --multi_gpu --num_processes 2"):
            make_trainer()

    def test_fsdp_and_deepspeed_are_refused(self):
        from clvq_hf.training.trainer import _check_launch

        for fields in ({"fsdp": True, "deepspeed": None}, {"fsdp": None, "deepspeed": "zero3.json"}):
            with pytest.raises(ValueError, match="accelerate launch"):
                _check_launch(types.SimpleNamespace(n_gpu=1, **fields))

    def test_the_tokenizer_does_not_write_into_the_config(self, make_trainer):
        trainer = make_trainer(max_steps=1)
        trainer.train()
        assert "pad_token_id" not in trainer.model.config.to_diff_dict()

    def test_long_texts_are_cut_to_the_hosts_limit(self, make_trainer):
        trainer = make_trainer(train_dataset=Dataset.from_dict({"text": ["film " * 500, "good plot"]}))
        assert trainer.train_dataset["length"][:] == [128, 4]
        trainer.train()

    @pytest.mark.parametrize(("asked", "given"), [(20, 20), (1000, 128)])
    def test_a_length_of_the_users_own_is_kept_to_the_hosts_limit(self, make_trainer, asked, given):
        trainer = make_trainer(train_dataset=Dataset.from_dict({"text": ["film " * 500]}), max_length=asked)
        assert trainer.train_dataset["length"][:] == [given]

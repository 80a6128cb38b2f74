"""The methods that are compared: what each is, and how it gets its concepts from activations."""

import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PrinterCallback

from ..data.activation_cache import ActivationCache
from ..models import ConceptModel, load_dictionary
from ..models.registry import known_presets, method_classes
from ..training.settings import check_arguments, fit_fields
from ..training.trainer import CLVQTrainer
from ..training.training_args import CLVQTrainingArguments
from ..typed import check_value, field_types

# The method that the others are compared with.
OURS = "clvq"
HOSTS = ("fine-tuned", "pretrained", "reinitialised")


@dataclass(frozen=True)
class Method:
    """A way to get concepts, with its settings.

    Attributes:
        title (`str`): Name for tables and figures.
        family (`str`): The `family` of a registered method; `"dictionary"` or `"saved"` for one that is loaded.
        config (`Mapping[str, Any]`): Fields of the model's config; of a loaded one its `path`, and arguments of
            [`load_dictionary`][clvq_hf.models.load_dictionary] or `from_pretrained`.
        training (`Mapping[str, Any]`): Fields of
            [`CLVQTrainingArguments`][clvq_hf.CLVQTrainingArguments], or arguments of the model's `fit`.
        causal_training (`Mapping[str, Any]`): Those that differ on causal hosts.
        single_layer (`bool`): Whether the lower layer is both layers.
        host (`str`): `"fine-tuned"`, or for controls `"pretrained"` or `"reinitialised"`.
        permute_labels (`bool`): Whether labels are permuted over the texts before anything is measured; a control.
        control (`bool`): Whether it is a sanity control, which takes no part in the count of wins.
    """

    title: str
    family: str
    config: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    causal_training: Mapping[str, Any] = field(default_factory=dict)
    single_layer: bool = False
    host: str = "fine-tuned"
    permute_labels: bool = False
    control: bool = False

    @property
    def ablates(self) -> bool:
        """Whether the host is ablated: one without a trained head predicts nothing, and wrong labels say nothing."""
        return self.host == "fine-tuned" and not self.permute_labels


# What the comparison adds to the presets of registered methods: models that are loaded, and controls of the host.
_OWN: dict[str, Method] = {
    # Of others: a dictionary in the format of SAELens or sparsify, or a model of ours, by `path`.
    "published": Method("published dictionary", "dictionary"),
    "saved": Method("saved model", "saved"),
    "reinitialised-host": Method("re-initialised host", "clvq", host="reinitialised", control=True),
    "pretrained-host": Method("pretrained host", "clvq", host="pretrained", control=True),
    "permuted-labels": Method("permuted labels", "clvq", permute_labels=True, control=True),
}


def _family(model_class: type[ConceptModel]) -> str:
    config_class = model_class.config_class
    return config_class.family or config_class.model_type


def known_methods() -> dict[str, Method]:
    """Return every method that a grid can name: presets of all registered methods, loaded models, and controls."""
    presets = {
        name: Method(family=_family(model_class), **vars(preset))
        for name, (model_class, preset) in known_presets().items()
    }
    if taken := sorted(set(presets) & set(_OWN)):
        raise ValueError(
            f"A registered method has the preset {taken[0]!r}, a name of the comparison's own; rename it."
        )
    controls = {name: method for name, method in presets.items() if method.control}
    methods = {name: method for name, method in presets.items() if not method.control}
    return {**methods, **_OWN, **controls}


# Arguments that the comparison sets itself.
_OURS = {"seed", "data_seed", "output_dir"}
# What `config` may hold for a model that is loaded, with their types; no code or pickles.
_LOADED: dict[str, Any] = {
    **dict.fromkeys(("path", "subfolder", "revision", "cache_dir"), str),
    **dict.fromkeys(("lower_layer", "upper_layer"), int),
    **dict.fromkeys(("center_states", "force_download", "local_files_only"), bool),
    "norm_scaling_factor": float,
}
_LOADERS = {"dictionary": load_dictionary, "saved": ConceptModel.from_pretrained}


def check_fields(name: str, method: Method) -> None:
    """Check a method's settings as far as it can be done without a host.

    Raises:
        ValueError: Naming the field that does not exist, and those that do; or a value that is out of its range.
    """
    if method.host not in HOSTS:
        raise ValueError(f"The method {name} asks for a host that is {method.host!r}; it may be one of {HOSTS}.")
    if method.family in _LOADERS:
        if not isinstance(method.config.get("path"), str):
            raise ValueError(f"The method {name} is loaded: say from where with config: {{path: …}}.")
        if unknown := sorted(set(method.config) - set(_LOADED)):
            raise ValueError(f"The method {name} has no field {unknown[0]!r} in config; there are {sorted(_LOADED)}.")
        for field_name, value in method.config.items():
            _check_value(value, _LOADED[field_name], f"The method {name}: {field_name}")
        return
    model_class = next(each for each in method_classes() if _family(each) == method.family)
    config = model_class.config_class
    kinds = {"config": field_types(config), "training": _training_kinds(model_class)}
    for part in kinds:
        names = set(kinds[part]) - (_OURS if part == "training" else set())
        given = getattr(method, part)
        if unknown := sorted(set(given) - names):
            raise ValueError(f"The method {name} has no field {unknown[0]!r} in {part}; there are {sorted(names)}.")
        for field_name, value in given.items():
            # Ranges in a config are the config's own matter.
            check = check_value if part == "config" else _check_value
            check(value, kinds[part][field_name], f"The method {name}: {field_name}")
    if model_class.loss_names:
        check_arguments(CLVQTrainingArguments, method.training, f"training of the method {name}")
    # The width is the host's, and heads must divide it.
    width = 64 * method.config.get("num_attention_heads", 8)
    try:
        config(**{"hidden_size": width, **method.config})
    except ValueError as error:
        raise ValueError(f"The method {name}: {error}") from error


def _check_value(value: Any, kind: Any, what: str) -> None:
    """Check the type of a value that is not negative."""
    check_value(value, kind, what)
    if type(value) in (int, float) and value < 0:
        raise ValueError(f"{what} must not be negative; got {value}.")


def _training_kinds(model_class: type[ConceptModel]) -> dict[str, Any]:
    """Types of what `training` may name: fields of the arguments, or parameters of `fit`."""
    if model_class.loss_names:
        return typing.get_type_hints(CLVQTrainingArguments)
    return fit_fields(model_class)


def make_model(
    method: Method, host: PreTrainedModel, lower_layer: int, upper_layer: int, stack: str | None
) -> ConceptModel:
    """The method's model for a host, not fitted yet; or the one that it names, loaded.

    Raises:
        ValueError: If a field is out of its range, a layer does not exist, or a loaded model is of other layers or,
            by its reference texts, of another host.
    """
    upper_layer = lower_layer if method.single_layer else upper_layer
    if method.family in _LOADERS:
        fields = dict(method.config)
        model = _LOADERS[method.family](fields.pop("path"), **fields)
        model.check_host(host)
        layers = model.config.lower_layer, model.config.upper_layer
        if layers not in ((lower_layer, upper_layer), (lower_layer, lower_layer)):
            raise ValueError(
                f"{method.config['path']} is of the layers {layers}, and this host is compared at {lower_layer} and "
                f"{upper_layer}. Name it for a host with its layers."
            )
        model.eval()
        # A dictionary of others has no reference texts.
        if model.reference is not None:
            model.verify(host).raise_if_wrong()
        return model
    model_class = next(each for each in method_classes() if _family(each) == method.family)
    return model_class(model_class.config_class.from_host(host, lower_layer, upper_layer, stack, **method.config))


def of_its_layers(cache: ActivationCache, model: ConceptModel) -> ActivationCache:
    """The cache as a model reads it: a single-layer one reconstructs the lower layer."""
    return cache.single_layer() if model.config.lower_layer == model.config.upper_layer else cache


def fit(
    method: Method, model: ConceptModel, train: ActivationCache, validation: ActivationCache, folder: Path, seed: int
) -> dict[str, float]:
    """Fit a method's model to activations, in place.

    Args:
        method ([`Method`]): Which.
        model ([`ConceptModel`][clvq_hf.ConceptModel]): Of [`make_model`]; a loaded one stays as it is.
        train ([`ActivationCache`][clvq_hf.ActivationCache]): States of the training texts.
        validation ([`ActivationCache`][clvq_hf.ActivationCache]): Of other texts, for learning rates that wait for it.
        folder (`Path`): Where the trainer may write.
        seed (`int`): Seed of everything.

    Returns:
        `dict[str, float]`: The figures of `validation`, of those that are trained.
    """
    if method.family in _LOADERS:
        return {}
    train, validation = of_its_layers(train, model), of_its_layers(validation, model)
    if not model.loss_names:
        model.fit(train, seed=seed, **method.training)
        return {}
    args = CLVQTrainingArguments(
        str(folder),
        **{
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "logging_strategy": "no",
            "seed": seed,
            **method.training,
            **(method.causal_training if getattr(model.config, "is_causal", False) else {}),
        },
    )
    trainer = CLVQTrainer(model=model, args=args, train_dataset=train, eval_dataset=validation)
    trainer.remove_callback(PrinterCallback)  # many cells write to one terminal
    trainer.train()
    figures = {name.removeprefix("eval_"): value for name, value in trainer.evaluate().items()}
    model.eval()
    names = ("loss", *model.loss_names, "explained_variance", "perplexity", "active_codes")
    return {name: figures[name] for name in names if name in figures}


__all__ = ["HOSTS", "Method", "check_fields", "fit", "known_methods", "make_model", "of_its_layers"]

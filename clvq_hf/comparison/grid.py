"""What is compared: a grid of hosts, datasets, methods and seeds, read from one YAML file."""

import dataclasses
import hashlib
import json
import os
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoConfig, TrainingArguments

from ..data.texts import PARTS, load_texts
from ..evaluation.evaluate import EvaluationSettings
from ..models.configuration_concepts import check_layer_order
from ..models.registry import import_methods, imported_everywhere
from ..reading import read_yaml
from ..training.settings import check_arguments
from ..typed import check_value, shortened
from ..version import __version__
from .methods import Method, check_fields, known_methods

# Fields of a host that it does not depend on itself.
_OTHER = ("evaluation", "seeds")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
# Arguments of `from_pretrained` that a host may name. None of them runs code or reads pickles.
_LOAD: dict[str, Any] = {
    **dict.fromkeys(
        ("revision", "subfolder", "gguf_file", "cache_dir", "variant", "dtype", "attn_implementation"), str
    ),
    "local_files_only": bool,
}
MAX_VOCABULARY = 2**24


@dataclass(frozen=True)
class HostSpec:
    """A host of the grid.

    Attributes:
        name (`str`): What the grid calls it.
        model (`str` or `None`): Folder or Hub id; `None` for one that is trained from scratch.
        from_scratch (`str` or `None`): Its type for `AutoConfig` (`"gpt2"`, `"roberta"`) if it has no pretrained
            weights.
        config (`dict`): Fields of that config.
        vocab_size (`int`): Of the byte-level BPE tokenizer that is trained with it.
        load (`dict`): More for `from_pretrained`, such as `gguf_file` or `revision`.
        lower_layer (`int`): Layer whose states get a concept.
        upper_layer (`int`): Layer that is reconstructed.
        stack (`str` or `None`): Of encoder-decoder hosts.
        fine_tune (`dict`): Arguments of [`fine_tune`][clvq_hf.training.fine_tune]. A model that is a classifier of
            the dataset's labels already is taken as it is.
        evaluation (`dict`): Fields of `EvaluationSettings` that this host needs otherwise.
        sizes (`dict`): Fields of [`Sizes`] that this host needs otherwise.
        seeds (`tuple[int, ...]` or `None`): Of its cells; those of the grid if `None`.
    """

    name: str
    lower_layer: int
    upper_layer: int
    model: str | None = None
    from_scratch: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    vocab_size: int = 8000
    load: dict[str, Any] = field(default_factory=dict)
    stack: str | None = None
    fine_tune: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if (self.model is None) == (self.from_scratch is None):
            raise ValueError(f"The host {self.name} needs either a model or from_scratch.")
        if self.stack not in (None, "encoder", "decoder"):
            raise ValueError(f"stack of the host {self.name} must be encoder or decoder; got {self.stack!r}.")
        if not 300 <= self.vocab_size <= MAX_VOCABULARY:
            # 256 bytes, special tokens, and something to merge.
            raise ValueError(f"vocab_size of the host {self.name} must be 300 to {MAX_VOCABULARY:,}.")
        if self.lower_layer < 0:
            raise ValueError(f"lower_layer of the host {self.name} must be at least 0; got {self.lower_layer}.")
        check_layer_order(self.lower_layer, self.upper_layer)


@dataclass(frozen=True)
class DatasetSpec:
    """A dataset of the grid.

    Attributes:
        name (`str`): What the grid calls it.
        texts (`str`): Whatever [`load_texts`][clvq_hf.data.load_texts] takes.
        subset (`str` or `None`): Configuration of a Hub dataset.
        text_column (`str` or `None`): Column of the texts; by default the first of the usual names.
        label_column (`str` or `None`): Column of the labels; by default the first of the usual names.
        train_split (`str`): Cut by text hash into `host_train`, `codebook_train` and `select`.
        eval_split (`str`): What is measured on.
        eval_part (`str` or `None`): Only this part of it: `"select"`, for studies and where there is no other split.
        label_names (`tuple[str, ...]` or `None`): Names of the classes in the order of their ids, where labels are
            numbers, or a host's classes have no names.
    """

    name: str
    texts: str
    subset: str | None = None
    text_column: str | None = None
    label_column: str | None = None
    train_split: str = "train"
    eval_split: str = "test"
    eval_part: str | None = None
    label_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.eval_part is not None and self.eval_part not in PARTS:
            raise ValueError(f"The dataset {self.name} asks for the part {self.eval_part!r}; there are {list(PARTS)}.")

    def load(self, split: str) -> Dataset:
        """The texts of a split, with labels."""
        return load_texts(
            self.texts,
            split,
            subset=self.subset,
            text_column=self.text_column,
            label_column=self.label_column,
            label_names=self.label_names,
        )


@dataclass(frozen=True)
class Sizes:
    """How many texts are read, at most, drawn by the seed 0 whatever the cell's.

    Attributes:
        host_texts (`int` or `None`): That a host is fine-tuned on.
        train_texts (`int` or `None`): That concepts are learned from; a tenth of them is held out for validation.
        test_texts (`int` or `None`): That are measured.
        max_length (`int` or `None`): In tokens.
    """

    host_texts: int | None = None
    train_texts: int | None = None
    test_texts: int | None = None
    max_length: int | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and value < 1:
                raise ValueError(f"sizes: {name} must be at least 1; got {value}.")


@dataclass(frozen=True)
class Cell:
    """One host, dataset, method and seed."""

    host: str
    dataset: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        """The cell's folder."""
        return f"{self.host}_{self.dataset}_{self.method}_{self.seed}"


@dataclass(frozen=True)
class Grid:
    """All that is compared; see [`load_grid`].

    Attributes:
        hosts (`dict[str, HostSpec]`): By name.
        datasets (`dict[str, DatasetSpec]`): By name.
        methods (`dict[str, Method]`): By name, in the order of the file.
        seeds (`tuple[int, ...]`): The first is the one that stability compares the others with.
        sizes ([`Sizes`]): How many texts.
        evaluation ([`EvaluationSettings`][clvq_hf.evaluation.EvaluationSettings]): What is measured.
        sweep (`tuple[int, ...]`): Numbers of directions that are removed, for every ablation variant of a method.
        studies (`dict[str, tuple[str, ...]]`): Title → methods that differ in one setting.
        only (`dict[str, tuple[str, ...]]`): Method → the hosts that it is run on; all if it is not named.
        imports (`tuple[str, ...]`): Modules that register methods from outside this package.
    """

    hosts: dict[str, HostSpec]
    datasets: dict[str, DatasetSpec]
    methods: dict[str, Method]
    seeds: tuple[int, ...] = (0,)
    sizes: Sizes = Sizes()
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    sweep: tuple[int, ...] = (1, 5, 10)
    studies: dict[str, tuple[str, ...]] = field(default_factory=dict)
    only: dict[str, tuple[str, ...]] = field(default_factory=dict)
    imports: tuple[str, ...] = ()

    def cells(self) -> list[Cell]:
        """Every cell, host by host; first seeds first, which the others are compared with.

        A host that is trained from scratch was never pretrained, so it has no cell for that control.
        """
        return [
            Cell(host, dataset, method, seed)
            for seed in self.seeds
            for host in self.hosts
            for dataset in self.datasets
            for method, spec in self.methods.items()
            if seed in (self.hosts[host].seeds or self.seeds)
            and host in self.only.get(method, self.hosts)
            and not (spec.host == "pretrained" and self.hosts[host].from_scratch)
        ]

    def host_settings(self, host: str, dataset: str, variant: str) -> dict[str, Any]:
        """All that a prepared host depends on, for its record."""
        evaluation = dataclasses.asdict(self.evaluation_of(host))
        # What it was trained with; what is measured on it, and with which seeds, may change.
        spec = {name: value for name, value in dataclasses.asdict(self.hosts[host]).items() if name not in _OTHER}
        # A column that is not named is left out, as by versions that could name none: their folders stay usable.
        texts = dataclasses.asdict(self.datasets[dataset])
        for column in ("text_column", "label_column", "label_names"):
            if texts[column] is None:
                del texts[column]
        salience = ("attribution", "n_steps", "max_steps", "sign", "batch_size")
        return _plain(
            {
                "host": spec,
                "dataset": texts,
                "variant": variant,
                "sizes": dataclasses.asdict(self.sizes_of(host)),
                "salience": {name: evaluation[name] for name in salience},
                # Left out where they are not needed, so that hosts of grids without them stay usable.
                **({"words": True} if variant == "fine-tuned" and self.needs_words(host) else {}),
            }
        )

    def needs_words(self, host: str) -> bool:
        """Whether mean states of words are needed for what is measured on a host."""
        return self.evaluation_of(host).needs_words

    def cell_settings(self, cell: Cell) -> dict[str, Any]:
        """All that a cell depends on, for its record."""
        method = self.methods[cell.method]
        evaluation, sweep = self.measures(cell)
        return _plain(
            {
                **self.host_settings(cell.host, cell.dataset, method.host),
                "method": {name: value for name, value in dataclasses.asdict(method).items() if name != "title"},
                "clvq_version": __version__,
                "evaluation": dataclasses.asdict(evaluation),
                "sweep": sweep,
                "seed": cell.seed,
            }
        )

    def sizes_of(self, host: str) -> Sizes:
        """How many texts are read for a host."""
        return dataclasses.replace(self.sizes, **self.hosts[host].sizes)

    def evaluation_of(self, host: str) -> EvaluationSettings:
        """What is measured on a host."""
        fields = {"max_length": self.sizes_of(host).max_length, **_tuples(self.hosts[host].evaluation)}
        return dataclasses.replace(self.evaluation, **fields)

    def measures(self, cell: Cell) -> tuple[EvaluationSettings, tuple[int, ...]]:
        """What is measured in a cell, and its sweep. Only the first seed has the probe."""
        settings = self.evaluation_of(cell.host)
        if cell.seed != self.seeds[0]:
            protocols = tuple(name for name in settings.protocols if name != "probe")
            settings = dataclasses.replace(settings, protocols=protocols)
        return settings, self.sweep


def digest(settings: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that the same settings share."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def load_grid(file: str | Path) -> Grid:
    """Read a grid from YAML.

    ```yaml
    hosts:
      minilm: {model: sentence-transformers/all-MiniLM-L6-v2, lower_layer: 3, upper_layer: 6}
    datasets:
      ag-news: {texts: fancyzhx/ag_news}
    methods: [clvq, kmeans, {name: clvq-50, method: clvq, config: {codebook_size: 50}}]
    seeds: [0]
    sizes: {train_texts: 2000, test_texts: 300, max_length: 64}
    evaluation: {num_draws: 5}
    ```

    `$VARIABLES` of the environment are filled in. `imports: [my_module]` imports modules that register methods from
    outside this package. See `scripts/grids/` for complete grids.

    Args:
        file (`str` or `Path`): The file.

    Returns:
        [`Grid`]: Checked as far as it can be without loading a model.

    Raises:
        ValueError: For what is unknown, naming what there is.
    """
    file = Path(file)
    if not file.is_file():
        raise ValueError(f"There is no file {file}.")
    content = read_yaml(file.read_text(encoding="utf-8", errors="replace"), file)
    if not isinstance(content, dict):
        raise ValueError(f"{file} must hold hosts, datasets and methods.")
    content = _filled_in(content, file)
    fields = [each.name for each in dataclasses.fields(Grid) if each.name != "only"]
    if unknown := sorted(set(content) - set(fields)):
        raise ValueError(f"{file} has no use for {unknown[0]!r}; it may hold {fields}.")
    for name in ("hosts", "datasets", "methods"):
        if not content.get(name):
            raise ValueError(f"{file} names no {name}.")
    imports = _list(content["imports"], "imports") if "imports" in content else ()
    import_methods(imports, "imports")
    methods, only = _methods(content["methods"])
    hosts, datasets = _named(content["hosts"], "host", HostSpec), _named(content["datasets"], "dataset", DatasetSpec)
    seeds, sweep = _integers(content, "seeds", (0,), 0), _integers(content, "sweep", (1, 5, 10), 1)
    for spec in hosts.values():
        _check_host(spec, seeds)
    for method, names in only.items():
        if missing := sorted(set(names) - set(hosts)):
            raise ValueError(f"The method {method} is for the host {missing[0]!r}, which the grid lacks.")
    studies = check_value(content.get("studies") or {}, dict[str, list[str]], "studies")
    studies = {title: _list(names, f"the study {title}") for title, names in studies.items()}
    for title, names in studies.items():
        if missing := sorted(set(names) - set(methods)):
            raise ValueError(f"The study {title!r} names the method {missing[0]!r}, which the grid lacks.")
    for name in [*hosts, *datasets, *methods]:
        if not _NAME.fullmatch(str(name)):
            raise ValueError(f"{name!r} is part of the names of files: only letters, digits, dots and dashes.")
    evaluation = _made(EvaluationSettings, content.get("evaluation"), "evaluation")
    if "code" in evaluation.protocols and not {"salient", "other_code"} <= set(evaluation.conditions):
        raise ValueError("evaluation: conditions must name salient and other_code, which methods are compared by.")
    return Grid(
        hosts=hosts,
        datasets=datasets,
        methods=methods,
        seeds=seeds,
        sizes=_made(Sizes, content.get("sizes"), "sizes"),
        evaluation=evaluation,
        sweep=sweep,
        studies=studies,
        only=only,
        imports=tuple(dict.fromkeys([*imports, *imported_everywhere()])),
    )


def _named(specs: Any, what: str, kind: type) -> dict[str, Any]:
    if not isinstance(specs, dict):
        raise ValueError(f"{what}s must be a mapping from names to fields, got {shortened(specs)}.")
    return {
        name: _made(kind, {"name": name, **_mapping(spec, f"the {what} {name}")}, f"the {what} {name}")
        for name, spec in specs.items()
    }


def _check_host(spec: HostSpec, seeds: tuple[int, ...]) -> None:
    what = f"the host {spec.name}"
    _made(Sizes, spec.sizes, f"sizes of {what}")
    _made(EvaluationSettings, spec.evaluation, f"evaluation of {what}")
    known = {each.name for each in dataclasses.fields(TrainingArguments)}
    fine_tune = dict(spec.fine_tune)
    above = check_value(fine_tune.pop("above_layer", None), int | None, f"above_layer in fine_tune of {what}")
    if above is not None and above < 0:
        raise ValueError(f"above_layer in fine_tune of {what} must be at least 0; got {above}.")
    if unknown := sorted(set(fine_tune) - known):
        raise ValueError(f"fine_tune of {what} has no field {unknown[0]!r}; it has those of TrainingArguments.")
    check_arguments(TrainingArguments, fine_tune, f"fine_tune of {what}")
    if unknown := sorted(set(spec.load) - set(_LOAD)):
        raise ValueError(f"load of {what} may not name {unknown[0]!r}; it may name {sorted(_LOAD)}.")
    for name, value in spec.load.items():
        check_value(value, _LOAD[name], f"{name} in load of {what}")
    if spec.from_scratch is not None:
        try:
            AutoConfig.for_model(spec.from_scratch, **spec.config)
        except Exception as error:  # classes of transformers check their fields in many ways
            raise ValueError(f"config of {what} does not fit the type {spec.from_scratch!r}: {error}") from error
    if spec.seeds is not None and not (set(spec.seeds) <= set(seeds) and seeds[0] in spec.seeds):
        raise ValueError(
            f"The seeds {list(spec.seeds)} of {what} must be among the grid's, {list(seeds)}, with the first, which "
            "stability compares the others with."
        )


def _methods(entries: Any) -> tuple[dict[str, Method], dict[str, tuple[str, ...]]]:
    methods: dict[str, Method] = {}
    only: dict[str, tuple[str, ...]] = {}
    for entry in _list(entries, "methods"):
        entry = (
            {"method": entry} if isinstance(entry, str) else dict(_mapping(entry, f"the method {shortened(entry)}"))
        )
        kind = entry.pop("method", None)
        if not isinstance(kind, str) or kind not in known_methods():
            raise ValueError(f"There is no method {kind!r}; there are {', '.join(known_methods())}.")
        name = check_value(entry.pop("name", kind), str, f"name of a method {kind}")
        if name in methods:
            raise ValueError(f"Two methods are called {name!r}; give one another name.")
        if "hosts" in entry:
            hosts = check_value(entry.pop("hosts"), list[str], f"hosts of the method {name}")
            only[name] = _list(hosts, f"hosts of the method {name}")
        kinds = typing.get_type_hints(Method)
        known = set(kinds) - {"family", "causal_training"}
        if unknown := sorted(set(entry) - known):
            raise ValueError(f"The method {name} has no field {unknown[0]!r}; it may have {sorted(known)} and hosts.")
        base = known_methods()[kind]
        given = {part: _mapping(entry.get(part), f"{part} of the method {name}") for part in ("config", "training")}
        for field_name in set(entry) - set(given):
            check_value(entry[field_name], kinds[field_name], f"{field_name} of the method {name}")
        for part in given:
            entry[part] = {**getattr(base, part), **given[part]}
        # What the grid says counts on every host.
        causal = {field: value for field, value in base.causal_training.items() if field not in given["training"]}
        if name != kind:
            entry.setdefault("title", name)
        methods[name] = dataclasses.replace(base, **entry, causal_training=causal)
        check_fields(name, methods[name])
    return methods, only


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{what[:1].upper()}{what[1:]} must be a mapping of fields, got {shortened(value)}.")
    return value


def _list(value: Any, what: str) -> tuple:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{what[:1].upper()}{what[1:]} must be a list, got {shortened(value)}.")
    return tuple(value)


def _integers(content: dict[str, Any], name: str, default: tuple[int, ...], least: int) -> tuple[int, ...]:
    if name not in content:
        return default
    values = _list(content[name], name)
    # Not isinstance: True is an int. Seeds of NumPy and torch have 32 bits.
    if not all(type(value) is int and least <= value < 2**32 for value in values) or len(set(values)) < len(values):
        raise ValueError(f"{name} must be different integers of at least {least}, got {shortened(list(values))}.")
    return values


def _made(kind: type, fields: Any, what: str) -> Any:
    known = [each.name for each in dataclasses.fields(kind)]
    fields = _tuples(_mapping(fields, what))
    if unknown := sorted(set(fields) - set(known)):
        raise ValueError(f"{what[:1].upper()}{what[1:]} has no field {unknown[0]!r}; it may have {known}.")
    kinds = typing.get_type_hints(kind)
    for name, value in fields.items():
        check_value(value, kinds[name], f"{name[:1].upper()}{name[1:]} of {what}")
    try:
        return kind(**fields)
    except TypeError as error:  # a field that must be there
        raise ValueError(f"{what[:1].upper()}{what[1:]}: {error}.".replace("__init__() missing", "misses")) from error


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    """Lists of YAML as the tuples that frozen settings hold."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def _filled_in(value: Any, file: Path) -> Any:
    """Environment variables for `$NAMES`, and numbers such as 1e-3, which YAML takes for words."""
    if isinstance(value, dict):
        for name in value:
            if not isinstance(name, str):
                raise ValueError(f"{file} has the key {shortened(name)}, which is no text; put it in quotes.")
        return {name: _filled_in(each, file) for name, each in value.items()}
    if isinstance(value, list):
        return [_filled_in(each, file) for each in value]
    if not isinstance(value, str):
        return value
    if re.fullmatch(r"[-+]?\d{1,3}(\.\d*)?[eE][-+]?\d{1,2}", value):
        return float(value)
    filled = os.path.expandvars(value)
    if missing := re.search(r"\$\{?(\w+)", filled):
        raise ValueError(f"{file} asks for the environment variable {missing[1]}, which is not set.")
    return filled


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """As JSON would give it back."""
    return json.loads(json.dumps(settings))


__all__ = ["Cell", "DatasetSpec", "Grid", "HostSpec", "Sizes", "digest", "load_grid"]

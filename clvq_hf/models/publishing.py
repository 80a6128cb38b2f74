"""Publishing a folder with a concept model: its card, table and results, and no file of another model."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, ModelCard
from huggingface_hub.errors import HTTPError
from transformers import AutoModel
from transformers.utils import logging

from ..auditing.result import AUDIT_NAME, Audit
from ..files import ScratchFolder
from ..hosts.loading import load_config
from ..hub.provenance import is_hub_id, public_name
from ..hub.repositories import (
    AUDIT_FOLDER,
    AUDIT_SUMMARY,
    CARD_NAME,
    CODE_DEPENDENT_FILES,
    CONCEPTS_FOLDER,
    CONFIG_NAME,
    DISTANCES_NAME,
    EVALUATION_FOLDER,
    REFERENCE_NAME,
    RESULTS_NAME,
    TABLE_NAME,
    WEIGHTS,
    Source,
    checkpoint_files,
    read_results,
)
from ..hub.requests import hub_api, with_retries
from ..hub.uploads import Remote, card_files, commit_files, full_repo_id, inspect_remote
from ..metrics.results_tables import results_markdown
from ..reading import read_json
from ..tables.by_hand import BY_HAND_FILE
from ..tables.concept_table import ConceptTable, public_metadata
from ..tables.masking import masked_labels
from ..tables.names import NAMES_FILE
from .checkpoints import check_checkpoint
from .configuration_concepts import ConceptConfig
from .distances import DistanceQuantiles
from .model_card import datasets_of, has_masked_labels, measures_of, model_card
from .verification import Reference

logger = logging.get_logger(__name__)

# transformers may have left these in the repository; a loader that accepts pickles would prefer them.
OLD_WEIGHTS = ("pytorch_model*.bin", "pytorch_model.bin.index.json", "training_args.bin")
# Files at the top of a repository that belong to a model of another kind. Folders, such as checkpoints, are kept.
FOREIGN_SUFFIXES = (".safetensors", ".gguf", ".bin", ".onnx", ".h5", ".pt", ".ckpt", ".msgpack")
FOREIGN_NAMES = ("adapter_config.json", "model_index.json")


def publish(
    folder: Path,
    repo_id: str,
    *,
    concepts: ConceptTable | None = None,
    concepts_repo: str | None = None,
    evaluation: str | Path | None = None,
    audit: str | Path | None = None,
    license: str | None = None,
    mask_toxic: bool = True,
    mask_label: Sequence[str] = (),
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    tags: Sequence[str] = (),
    commit_message: str = "Upload concept model",
    commit_description: str | None = None,
) -> CommitInfo:
    """Upload a folder that `save_pretrained`, the trainer or `clvq-hf pull` has written.

    The arguments are those of [`ConceptModel.push_to_hub`][clvq_hf.ConceptModel.push_to_hub].

    Raises:
        HubError: If the Hub cannot be reached, or refuses. The folder is not changed.
        ValueError: If the folder contains no concept model, table or results belong to another model, or the repository
            holds something else.
    """
    access: dict[str, Any] = {"private": private, "token": token, "revision": revision, "create_pr": create_pr}
    repo_id = full_repo_id(repo_id, token)
    check_checkpoint(Source(str(folder)))
    config = _read_config(folder)
    files = _read_files(folder, config, warn_of_table=concepts is None)
    results = _read_results(folder, config) if evaluation is None else _read_evaluation(Path(evaluation), config)
    audited = _read_audit(folder / AUDIT_FOLDER if audit is None else Path(audit), config, is_named=audit is not None)
    if concepts is not None:
        _check_fingerprint(concepts.metadata.get("model_fingerprint"), config, "The concept table belongs")
        concepts = concepts.without_paths()
        masked_labels(concepts.label_names, mask_toxic, mask_label)  # refused before anything is sent
    with ScratchFolder() as scratch:
        remote = inspect_remote(repo_id, "model", revision, token, Path(scratch) / "cache")
        remote_files = remote.fetch(CONFIG_NAME, CARD_NAME)
        same_codes = _check_remote(remote, remote_files, config, repo_id)
        if concepts is not None and concepts_repo is not None:
            commit = concepts.push_to_hub(concepts_repo, **access)
            config.concepts_repo, config.concepts_revision = full_repo_id(concepts_repo, token), commit.oid
        elif concepts is not None:
            config.concepts_repo = config.concepts_revision = None
            table_folder = Path(scratch) / CONCEPTS_FOLDER
            concepts.save_as_parquet(table_folder)
            files |= {f"{CONCEPTS_FOLDER}/{file.name}": file for file in table_folder.iterdir()}
        if results is not None:
            files[f"{EVALUATION_FOLDER}/{RESULTS_NAME}"] = (json.dumps(results, indent=2) + "\n").encode()
            tables = measures_of(results, has_masked_labels(results, mask_toxic, mask_label))
            files[f"{EVALUATION_FOLDER}/results.md"] = results_markdown(results, tables).encode()
        if audited is not None:
            files[f"{AUDIT_FOLDER}/{AUDIT_SUMMARY}"] = (json.dumps(audited, indent=2) + "\n").encode()
        # Files that stay in the repository are described by the card too.
        remaining = remote if same_codes else Remote()
        files |= card_files(
            files.pop(CARD_NAME, None),
            remote_files.get(CARD_NAME),
            lambda: _generate_card(
                config,
                repo_id,
                table=concepts or _remote_table(remaining, Path(scratch)),
                results=results or _remote_results(remaining),
                audit=audited or _remote_audit(remaining),
                has_reference=REFERENCE_NAME in files or REFERENCE_NAME in remaining.names,
                token=token,
                license=license,
                mask_toxic=mask_toxic,
                mask_label=mask_label,
                tags=tags,
            ),
        )
        files[CONFIG_NAME] = _public_config(config).to_json_string(use_diff=False).encode()
        replaced = {name.split("/")[0] for name in files} | ({CONCEPTS_FOLDER} if concepts is not None else set())
        stale = [pattern for pattern in CODE_DEPENDENT_FILES if not same_codes or pattern.split("/")[0] in replaced]
        return commit_files(
            files,
            repo_id,
            stale=(*WEIGHTS, *OLD_WEIGHTS, *stale),
            commit_message=commit_message,
            commit_description=commit_description,
            **access,
        )


def card_of_folder(
    folder: Path,
    repo_id: str,
    *,
    license: str | None = None,
    mask_toxic: bool = True,
    mask_label: Sequence[str] = (),
    tags: Sequence[str] = (),
) -> ModelCard:
    """The card that a push of this folder to an empty repository would write."""
    config = _read_config(folder)
    return _generate_card(
        config,
        repo_id,
        results=_read_results(folder, config),
        audit=_read_audit(folder / AUDIT_FOLDER, config),
        has_reference=REFERENCE_NAME in _read_files(folder, config),
        license=license,
        mask_toxic=mask_toxic,
        mask_label=mask_label,
        tags=tags,
    )


def _read_config(folder: Path) -> ConceptConfig:
    config = load_config(folder)
    if config.fingerprint is None:  # saved by an earlier version
        config.fingerprint = AutoModel.from_pretrained(
            folder, trust_remote_code=False, use_safetensors=True
        ).fingerprint()
    if not is_hub_id(config.host_name_or_path):
        logger.warning(
            f"The host {config.host_name_or_path!r} is not on the Hub, so others cannot load it with "
            "model.load_host(). Push the host first, and set config.host_name_or_path to its id."
        )
    return config


def _read_files(folder: Path, config: ConceptConfig, warn_of_table: bool = False) -> dict[str, Path | bytes]:
    """The files that are always published: weights, tokenizer, card, and the reference texts of these weights."""
    files: dict[str, Path | bytes] = dict(checkpoint_files(folder))
    if REFERENCE_NAME in files and Reference.load(folder / REFERENCE_NAME).model_fingerprint != config.fingerprint:
        logger.warning(f"The reference texts in {folder} belong to other weights and are left out.")
        del files[REFERENCE_NAME]
    if DISTANCES_NAME in files and DistanceQuantiles.load(folder / DISTANCES_NAME).fingerprint != config.fingerprint:
        logger.warning(f"The quantiles of distances in {folder} belong to other weights and are left out.")
        del files[DISTANCES_NAME]
    if warn_of_table and (folder / CONCEPTS_FOLDER / TABLE_NAME).is_file():
        logger.warning(
            f"The concept table in {folder / CONCEPTS_FOLDER} contains texts and is only published on request: "
            f"--table {folder / CONCEPTS_FOLDER}, or concepts=…"
        )
    return files


def _read_results(folder: Path, config: ConceptConfig) -> dict[str, Any] | None:
    """The results in the `evaluation/` folder of a model, if there are any."""
    folder = folder / EVALUATION_FOLDER
    return _read_evaluation(folder, config) if (folder / RESULTS_NAME).is_file() else None


def _read_evaluation(folder: Path, config: ConceptConfig) -> dict[str, Any]:
    """The results that `clvq-hf evaluate` has written to a folder, without paths."""
    file = folder / RESULTS_NAME
    if not file.is_file():
        raise ValueError(f"{folder} holds no results; `clvq-hf evaluate` writes {RESULTS_NAME}.")
    results = read_results(file)
    _check_fingerprint(results.get("model_fingerprint"), config, f"{file} belongs")
    results = public_metadata(results)
    results.pop("model", None)  # a path, or the repository that this is pushed to
    results["texts"]["dataset"] = public_name(results["texts"].get("dataset"))
    return results


def _read_audit(folder: Path, config: ConceptConfig, is_named: bool = False) -> dict[str, Any] | None:
    """The first suspects of an audit in a folder; `None` if it holds none, and was not named."""
    if (folder / AUDIT_NAME).is_file() or is_named:
        found = Audit.load_from_disk(folder).summary()
    elif (folder / AUDIT_SUMMARY).is_file():  # as it was pulled
        found = read_json(folder / AUDIT_SUMMARY, {"suspects": list})
    else:
        return None
    _check_fingerprint(found.get("model_fingerprint"), config, f"The audit in {folder} belongs")
    return found


def _check_fingerprint(fingerprint: str | None, config: ConceptConfig, subject: str) -> None:
    if fingerprint != config.fingerprint:
        raise ValueError(f"{subject} to another model (the fingerprints differ). Make it again with this one.")


def _check_remote(remote: Remote, files: dict[str, Path], config: ConceptConfig, repo_id: str) -> bool:
    """Whether the repository has a model with the same codes; `ValueError` if it has a model of another kind."""
    remedy = "Choose another repository, or delete that one first."
    if CONFIG_NAME not in files:
        names = [name for name in remote.names if "/" not in name]
        if foreign := [name for name in names if name.endswith(FOREIGN_SUFFIXES) or name in FOREIGN_NAMES]:
            raise ValueError(
                f"{repo_id} holds something else ({foreign[0]}), which a push would replace or mix with. {remedy}"
            )
        return False
    remote_config = read_json(files[CONFIG_NAME])
    if (model_type := remote_config.get("model_type")) != config.model_type:
        raise ValueError(
            f"{repo_id} holds a model of the type {model_type!r}, which a push would replace by one of the type "
            f"{config.model_type!r}. {remedy}"
        )
    return remote_config.get("fingerprint") == config.fingerprint


def _remote_table(remote: Remote, scratch: Path) -> ConceptTable | None:
    needed = [f"{CONCEPTS_FOLDER}/{name}" for name in (TABLE_NAME, "tokens.parquet", "texts.parquet")]
    files = remote.fetch(*needed, *(f"{CONCEPTS_FOLDER}/{name}" for name in (NAMES_FILE, BY_HAND_FILE)))
    if not set(needed) <= set(files):
        return None
    return ConceptTable.load_from_disk(files[needed[0]].parent, cache_dir=scratch / "arrow")


def _remote_results(remote: Remote) -> dict[str, Any] | None:
    files = remote.fetch(f"{EVALUATION_FOLDER}/{RESULTS_NAME}")
    return read_results(next(iter(files.values()))) if files else None


def _remote_audit(remote: Remote) -> dict[str, Any] | None:
    files = remote.fetch(f"{AUDIT_FOLDER}/{AUDIT_SUMMARY}")
    return read_json(next(iter(files.values())), {"suspects": list}) if files else None


def _generate_card(
    config: ConceptConfig,
    repo_id: str,
    *,
    table: ConceptTable | None = None,
    results: dict[str, Any] | None = None,
    token: str | bool | None = None,
    **arguments: Any,
) -> ModelCard:
    """The card with the licences that the Hub knows; `arguments` are passed to `model_card`."""
    public = _public_config(config)
    keys = [("model", public.host_name_or_path)]
    keys += [("dataset", name) for name in datasets_of(public, table, results)]
    licences = {(kind, name): _read_licence(name, kind, token) for kind, name in keys if is_hub_id(name)}
    licences = {key: licence for key, licence in licences.items() if licence is not None}
    return model_card(public, repo_id, table=table, results=results, licences=licences, **arguments)


def _read_licence(name: str, kind: str, token: str | bool | None) -> dict[str, Any] | None:
    """The licence on the card of a host or dataset; `None` if the Hub does not know the repository, or is down."""
    try:
        data = with_retries(lambda: hub_api(token).repo_info(name, repo_type=kind), f"looking up {name}").card_data
    except (HTTPError, OSError):
        return None
    fields = ("license", "license_name", "license_link")
    return {field: data.get(field) for field in fields if data is not None and data.get(field)}


def _public_config(config: ConceptConfig) -> ConceptConfig:
    """The config as others may see it, without paths."""
    public = type(config).from_dict(config.to_dict())
    public.host_name_or_path = public_name(config.host_name_or_path)
    public.name_or_path = ""
    if public.training is not None:
        public.training = {**public.training, "dataset": public_name(public.training.get("dataset"))}
    return public


__all__ = ["card_of_folder", "publish"]

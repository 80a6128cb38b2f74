"""From a folder with a concept model to a repository: card, concept table, results, and nothing of another model."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, ModelCard
from huggingface_hub.errors import HTTPError
from transformers import AutoConfig, AutoModel
from transformers.utils import logging

from ..files import read_json
from ..hub.provenance import is_hub_id, public_name
from ..hub.repositories import (
    CARD_NAME,
    CONCEPTS_FOLDER,
    CONFIG_NAME,
    EVALUATION_FOLDER,
    OF_THE_CODES,
    REFERENCE_NAME,
    RESULTS_NAME,
    TABLE_NAME,
    WEIGHTS,
    Remote,
    Source,
    card_files,
    checkpoint_files,
    commit_files,
    full_repo_id,
    look_at,
)
from ..hub.requests import hub_api, with_retries
from ..rendering.text_tables import to_markdown
from ..tables.concept_table import ConceptTable
from .checkpoints import check_checkpoint
from .configuration_concepts import ConceptConfig
from .model_card import measures_of, model_card
from .verification import Reference

logger = logging.get_logger(__name__)

# What transformers itself would have left there; a loader that takes pickles would prefer it.
OLD_WEIGHTS = ("pytorch_model*.bin", "pytorch_model.bin.index.json", "training_args.bin")


def publish(
    folder: Path,
    repo_id: str,
    *,
    concepts: ConceptTable | None = None,
    concepts_repo: str | None = None,
    evaluation: str | Path | None = None,
    license: str | None = None,
    mask_toxic: bool = True,
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
        HubError: If the Hub could not be reached, or refused. Nothing of the folder is changed.
        ValueError: If the folder holds no concept model, table or results are of another one, or the repository holds
            something else.
    """
    repo_id = full_repo_id(repo_id, token)
    check_checkpoint(Source(str(folder)))
    config = _config_of(folder)
    files = _files_of(folder, config, concepts is None)
    results = _results_of(folder if evaluation is None else Path(evaluation), config, evaluation is not None)
    if concepts is not None:
        _check_fingerprint(concepts.metadata.get("model_fingerprint"), config, "The concept table is")
        concepts = concepts.without_paths()
    with tempfile.TemporaryDirectory() as scratch:
        remote = look_at(repo_id, "model", revision, token, Path(scratch) / "cache")
        there = remote.fetch(CONFIG_NAME, CARD_NAME)
        same_codes = _same_codes(remote, there, config, repo_id)
        if concepts is not None and concepts_repo is not None:
            commit = concepts.push_to_hub(
                concepts_repo, private=private, token=token, revision=revision, create_pr=create_pr
            )
            config.concepts_repo, config.concepts_revision = full_repo_id(concepts_repo, token), commit.oid
        elif concepts is not None:
            config.concepts_repo = config.concepts_revision = None
            table_folder = Path(scratch) / CONCEPTS_FOLDER
            concepts.save_as_parquet(table_folder)
            files |= {f"{CONCEPTS_FOLDER}/{file.name}": file for file in table_folder.iterdir()}
        if results is not None:
            files[f"{EVALUATION_FOLDER}/{RESULTS_NAME}"] = (json.dumps(results, indent=2) + "\n").encode()
            tables = measures_of(results, mask_toxic)
            files[f"{EVALUATION_FOLDER}/results.md"] = f"# Results\n\n{to_markdown(tables)}".encode()
        # What stays in the repository is still true of these codes, and the card tells it.
        kept = remote if same_codes else Remote()
        told = {
            "table": concepts or _kept_table(kept, Path(scratch)),
            "results": results or _kept_results(kept),
            "has_reference": REFERENCE_NAME in files or REFERENCE_NAME in kept.names,
        }
        files |= card_files(
            files.pop(CARD_NAME, None),
            there.get(CARD_NAME),
            lambda: _generated_card(config, repo_id, told, license, mask_toxic, tags, token),
        )
        files[CONFIG_NAME] = _public(config).to_json_string(use_diff=False).encode()
        replaced = {name.split("/")[0] for name in files} | ({CONCEPTS_FOLDER} if concepts is not None else set())
        stale = [pattern for pattern in OF_THE_CODES if not same_codes or pattern.split("/")[0] in replaced]
        return commit_files(
            files,
            repo_id,
            stale=(*WEIGHTS, *OLD_WEIGHTS, *stale),
            private=private,
            token=token,
            revision=revision,
            create_pr=create_pr,
            commit_message=commit_message,
            commit_description=commit_description,
        )


def card_of_folder(
    folder: Path, repo_id: str, *, license: str | None = None, mask_toxic: bool = True, tags: Sequence[str] = ()
) -> ModelCard:
    """The card that a push of this folder to an empty repository would write."""
    config = _config_of(folder)
    told = {
        "table": None,
        "results": _results_of(folder, config, False),
        "has_reference": REFERENCE_NAME in _files_of(folder, config, False),
    }
    return _generated_card(config, repo_id, told, license, mask_toxic, tags, None)


def _config_of(folder: Path) -> ConceptConfig:
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if config.fingerprint is None:  # saved by an earlier version
        config.fingerprint = AutoModel.from_pretrained(folder, trust_remote_code=False).fingerprint()
    if not is_hub_id(config.host_name_or_path):
        logger.warning(
            f"The host {config.host_name_or_path!r} is not on the Hub, so others cannot load it with "
            "model.load_host(). Push the host first, and set config.host_name_or_path to its id."
        )
    return config


def _files_of(folder: Path, config: ConceptConfig, tell: bool) -> dict[str, Path | bytes]:
    """What of a folder is published unasked: weights, tokenizer, the user's card, reference texts of these weights."""
    files: dict[str, Path | bytes] = dict(checkpoint_files(folder))
    if REFERENCE_NAME in files and Reference.load(folder / REFERENCE_NAME).model_fingerprint != config.fingerprint:
        logger.warning(f"The reference texts in {folder} are of other weights, and are left out.")
        del files[REFERENCE_NAME]
    if tell and (folder / CONCEPTS_FOLDER / TABLE_NAME).is_file():
        logger.warning(
            f"The concept table in {folder / CONCEPTS_FOLDER} holds texts, and is published only if it is asked for: "
            f"--table {folder / CONCEPTS_FOLDER}, or concepts=…"
        )
    return files


def _results_of(folder: Path, config: ConceptConfig, wanted: bool) -> dict[str, Any] | None:
    """What `clvq-hf evaluate` has left in a folder, or in the `evaluation/` of a model's."""
    file = folder / RESULTS_NAME if wanted else folder / EVALUATION_FOLDER / RESULTS_NAME
    if not file.is_file():
        if wanted:
            raise ValueError(f"{folder} holds no results; `clvq-hf evaluate` writes {RESULTS_NAME}.")
        return None
    results = read_json(file)
    _check_fingerprint(results.get("model_fingerprint"), config, f"The results in {file} are")
    results["host_name_or_path"] = public_name(results.get("host_name_or_path"))
    results["texts"]["dataset"] = public_name(results["texts"].get("dataset"))
    return results


def _check_fingerprint(found: Any, config: ConceptConfig, what: str) -> None:
    if found != config.fingerprint:
        raise ValueError(f"{what} of another model (their fingerprints differ); make them again with this one.")


def _same_codes(remote: Remote, there: dict[str, Path], config: ConceptConfig, repo_id: str) -> bool:
    """Whether the repository has a model with the same codes; raises if it has one that is no concept model's."""
    if CONFIG_NAME not in there:
        if foreign := [name for name in remote.names if _is_foreign(name)]:
            raise ValueError(
                f"{repo_id} holds something else ({foreign[0]}), which a push would replace or mix with. Choose "
                "another repository, or delete that one first."
            )
        return False
    found = read_json(there[CONFIG_NAME])
    if found.get("model_type") != config.model_type:
        raise ValueError(
            f"{repo_id} holds a model of the type {found.get('model_type')!r}, which a push would replace by one of "
            f"the type {config.model_type!r}. Choose another repository, or delete that one first."
        )
    return found.get("fingerprint") == config.fingerprint


def _is_foreign(name: str) -> bool:
    """Whether a file is of a model of another kind; what lies in folders, such as checkpoints, stays anyway."""
    weights = (".safetensors", ".gguf", ".bin", ".onnx", ".h5", ".pt", ".ckpt", ".msgpack")
    return "/" not in name and (name.endswith(weights) or name in ("adapter_config.json", "model_index.json"))


def _kept_table(remote: Remote, scratch: Path) -> ConceptTable | None:
    found = remote.fetch(*(f"{CONCEPTS_FOLDER}/{name}" for name in (TABLE_NAME, "tokens.parquet", "texts.parquet")))
    if len(found) < 3:
        return None
    return ConceptTable.load_from_disk(next(iter(found.values())).parent, cache_dir=scratch / "arrow")


def _kept_results(remote: Remote) -> dict[str, Any] | None:
    found = remote.fetch(f"{EVALUATION_FOLDER}/{RESULTS_NAME}")
    return read_json(next(iter(found.values()))) if found else None


def _generated_card(
    config: ConceptConfig,
    repo_id: str,
    told: dict[str, Any],
    license: str | None,
    mask_toxic: bool,
    tags: Sequence[str],
    token: str | bool | None,
) -> ModelCard:
    public = _public(config)
    named = [(public.training or {}).get("dataset")]
    named += [] if told["table"] is None else told["table"].texts.unique("dataset")
    named += [] if told["results"] is None else [told["results"]["texts"].get("dataset")]
    on_hub = {("model", public.host_name_or_path): _licence(public.host_name_or_path, "model", token)}
    on_hub |= {("dataset", name): _licence(name, "dataset", token) for name in dict.fromkeys(named) if name}
    licences = {key: licence for key, licence in on_hub.items() if licence is not None}
    return model_card(public, repo_id, **told, licences=licences, license=license, mask_toxic=mask_toxic, tags=tags)


def _licence(name: str | None, kind: str, token: str | bool | None) -> dict[str, Any] | None:
    """What the card of a host or dataset says of its licence; `None` if the Hub does not know it, or answer."""
    if not is_hub_id(name):
        return None
    try:
        data = with_retries(lambda: hub_api(token).repo_info(name, repo_type=kind), f"asking for {name}").card_data
    except (HTTPError, OSError):
        return None
    fields = ("license", "license_name", "license_link")
    return {field: data.get(field) for field in fields if data is not None and data.get(field)}


def _public(config: ConceptConfig) -> ConceptConfig:
    public = type(config).from_dict(config.to_dict())
    public.host_name_or_path = public_name(config.host_name_or_path)
    public.name_or_path = ""
    if public.training is not None:
        public.training = {**public.training, "dataset": public_name(public.training.get("dataset"))}
    return public


__all__ = ["card_of_folder", "publish"]

"""`clvq-hf push`: a concept model on the Hub."""

from pathlib import Path
from typing import Annotated

import typer

from ..files import ScratchFolder
from .options import MaskLabel


def run_push(
    folder: Annotated[Path, typer.Argument(help="Folder with a trained concept model.")],
    repo_id: Annotated[str, typer.Argument(help="Repository: *org/name*. Created if needed.")],
    table: Annotated[
        Path | None,
        typer.Option(help="Concept table to push with it. It contains the texts: are you allowed to publish them?"),
    ] = None,
    concepts_repo: Annotated[
        str | None, typer.Option(help="Dataset repository for the table, instead of the model's own.")
    ] = None,
    evaluation: Annotated[
        Path | None, typer.Option(help="Folder written by `clvq-hf evaluate`; its figures go into the card.")
    ] = None,
    audit: Annotated[
        Path | None,
        typer.Option(
            help="Folder written by `clvq-hf audit`; its first suspects go into the card. Default: *audit* in the "
            "model's folder."
        ),
    ] = None,
    codebook_only: Annotated[
        bool, typer.Option("--codebook-only", help="Omit the decoder: a small fraction of the size.")
    ] = False,
    license: Annotated[
        str | None, typer.Option(help="License of this model. Default: that of the host, if known.")
    ] = None,
    show_toxic: Annotated[
        bool,
        typer.Option(
            "--show-toxic",
            help="Do not mask texts in the card whose label is called toxic, nor all if labels are numbers.",
        ),
    ] = False,
    mask_label: MaskLabel = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to push to. Created if needed.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
) -> None:
    """Share a concept model on the Hub, with a card that reports what was measured.

    Everything goes into one commit. If it fails, nothing is lost: run the same command again. Log in first with
    `hf auth login`, or set `HF_TOKEN`.

    Examples:

    - `clvq-hf push out org/clvq-gpt2-jigsaw --evaluation results`
    - `clvq-hf push out org/clvq-gpt2-jigsaw --evaluation results --table results/concept_table --private`
    - `clvq-hf push out org/clvq-gpt2-jigsaw-small --codebook-only`
    """
    import shutil

    from transformers import AutoModel

    from ..hub import Source
    from ..hub.repositories import checkpoint_files
    from ..models.checkpoints import check_checkpoint
    from ..models.publishing import publish
    from ..rendering.terminal import say
    from ..tables import ConceptTable

    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}.")
    concepts = None if table is None else ConceptTable.load_from_disk(table)
    folder = check_checkpoint(Source(str(folder)))
    model = AutoModel.from_pretrained(folder, trust_remote_code=False, use_safetensors=True)
    with ScratchFolder() as scratch:
        if codebook_only:
            for name, file in checkpoint_files(folder).items():
                if not name.endswith((".safetensors", ".safetensors.index.json")):
                    shutil.copy(file, Path(scratch) / name)
            model.codebook_only().save_pretrained(scratch)
            folder = Path(scratch)
        commit = publish(
            folder,
            repo_id,
            concepts=concepts,
            concepts_repo=concepts_repo,
            evaluation=evaluation,
            audit=audit,
            license=license,
            mask_toxic=not show_toxic,
            mask_label=mask_label or (),
            private=private or None,
            revision=revision,
            create_pr=create_pr,
        )
    say(f"Pushed: {commit.pr_url or commit.commit_url}")

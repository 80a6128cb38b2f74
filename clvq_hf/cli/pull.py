"""`clvq-hf pull`: a concept model from the Hub, in a folder."""

from pathlib import Path
from typing import Annotated

import typer

from .options import Revision

# In a folder that was made here, so that an interrupted download may go on in it.
PULLED_NAME = ".clvq-hf-pull"


def run_pull(
    repo_id: Annotated[str, typer.Argument(help="Repository with a concept model: *org/name*.")],
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir", "-o", help="Folder for the model. Default: the repository's name, without the owner."
        ),
    ] = None,
    revision: Revision = None,
    concepts: Annotated[bool, typer.Option(help="Whether to download the concept table, too.")] = True,
) -> None:
    """Download a concept model into a folder, and check that it loads.

    Files that arrived before an interruption are not downloaded again.

    Example: `clvq-hf pull org/clvq-gpt2-jigsaw --output-dir out`
    """
    from huggingface_hub import snapshot_download
    from transformers import AutoModel

    from ..hub import Source, repositories
    from ..hub.requests import readable_errors, with_retries
    from ..models.checkpoints import describe
    from ..rendering.terminal import say
    from ..version import __version__

    repositories.check_repo_id(repo_id)
    folder = output_dir or Path(repo_id.split("/")[-1])
    is_occupied = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    # Ours comes before the first file. The other one is what a download of an earlier version has left.
    mark = folder / PULLED_NAME
    pulled = (mark, folder / f".cache/huggingface/download/{repositories.CONFIG_NAME}.metadata")
    if is_occupied and not any(file.is_file() for file in pulled):
        raise ValueError(
            f"{folder} exists, and was not made by `clvq-hf pull`; choose another --output-dir, or remove it."
        )
    source = Source(repo_id, revision=revision)
    describe(source)  # raises for what is no concept model, before much is downloaded
    replaceable = [
        repositories.REFERENCE_NAME,
        repositories.DISTANCES_NAME,
        *repositories.WEIGHTS,
        f"{repositories.CONCEPTS_FOLDER}/*",
        f"{repositories.EVALUATION_FOLDER}/*",
        f"{repositories.AUDIT_FOLDER}/*",
    ]
    patterns = [repositories.CONFIG_NAME, repositories.CARD_NAME, *repositories.TOKENIZER_FILES, *replaceable]
    if not concepts:
        patterns.remove(f"{repositories.CONCEPTS_FOLDER}/*")
    folder.mkdir(parents=True, exist_ok=True)
    mark.touch()
    with readable_errors(repo_id):
        with_retries(
            lambda: snapshot_download(
                repo_id,
                revision=source.revision,
                local_dir=folder,
                allow_patterns=patterns,
                library_name=repositories.LIBRARY,
                library_version=__version__,
            ),
            f"downloading {repo_id}",
        )
    # What an earlier pull has left: old weights would be loaded instead of new shards.
    current_files = set(repositories.file_sizes(source))
    for pattern in replaceable:
        for file in folder.glob(pattern):
            if file.relative_to(folder).as_posix() not in current_files:
                file.unlink()
    AutoModel.from_pretrained(folder, trust_remote_code=False, use_safetensors=True)
    say(f"{repo_id} is in {folder}/.")

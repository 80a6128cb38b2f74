"""Checkpoints of a training run: which of them are complete, and what is compared before one is resumed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from ..checksums import CHECKSUMS_NAME, check_file, read_metadata, write_metadata
from ..files import remove_folder
from ..hub.repositories import DISTANCES_NAME, UNFINISHED_NAME, checkpoints_by_step
from ..reading import check_file_names, read_json

logger = logging.get_logger(__name__)


def checkpoint_folder(output_dir: str | Path, step: int) -> Path:
    """The folder of the checkpoint of a step."""
    return Path(output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{step}"


def begin_checkpoint(folder: Path) -> None:
    """Make the folder of a checkpoint, instead of one that may be there, with a mark that it is ours and unfinished."""
    remove_folder(folder)
    folder.mkdir(parents=True)
    (folder / UNFINISHED_NAME).touch()


def finish_checkpoint(folder: Path) -> None:
    """Note checksums of all that the trainer has written, and remove the mark."""
    # The quantiles of distances are added at the end of training, and have a checksum of their own.
    names = {file.name for file in folder.iterdir() if file.is_file()} - {UNFINISHED_NAME, DISTANCES_NAME}
    write_metadata(folder / CHECKSUMS_NAME, {}, sorted(names))
    (folder / UNFINISHED_NAME).unlink()


def check_complete(folder: Path) -> None:
    """Check that a checkpoint can be resumed.

    Raises:
        ValueError: If it is incomplete or damaged; the message names the file.
    """
    remedy = "Resume another checkpoint (resume_from_checkpoint=True takes the newest complete one), or train anew."
    if (folder / UNFINISHED_NAME).exists():
        raise ValueError(f"The checkpoint {folder} is incomplete: its writing was broken off. {remedy}")
    if not (folder / TRAINER_STATE_NAME).is_file():  # which the trainer writes last
        raise ValueError(f"The checkpoint {folder} is incomplete: it lacks {TRAINER_STATE_NAME}. {remedy}")
    read_json(folder / TRAINER_STATE_NAME, {"global_step": int}, remedy)
    if not list(folder.glob("model*.safetensors")):
        raise ValueError(f"The checkpoint {folder} is incomplete: it has no weights. {remedy}")
    if (folder / CHECKSUMS_NAME).is_file():  # earlier versions wrote none
        remedy += f" If you have changed it on purpose, remove its {CHECKSUMS_NAME}."
        noted: Mapping[str, Any] = read_metadata(folder / CHECKSUMS_NAME, remedy)[1]
        check_file_names(list(noted), folder / CHECKSUMS_NAME)
        for name, checksum in noted.items():
            check_file(folder / name, checksum, remedy)


def newest_complete(output_dir: str | Path) -> str | None:
    """The checkpoint of the last step that is complete, if there is one; a warning names those that are passed over."""
    for _, folder in sorted(checkpoints_by_step(Path(output_dir)).items(), reverse=True):
        try:
            check_complete(folder)
        except ValueError as error:
            logger.warning(f"A checkpoint is passed over. {error}")
        else:
            return str(folder)
    return None


__all__ = ["begin_checkpoint", "check_complete", "checkpoint_folder", "finish_checkpoint", "newest_complete"]

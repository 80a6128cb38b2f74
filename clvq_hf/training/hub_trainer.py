"""What `push_to_hub=True` means for concept models: one commit a push, and nothing lost if the Hub is down."""

import os
import shlex
import shutil
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils import PushInProgress, logging

from ..files import ScratchFolder, write_whole
from ..hub.repositories import CARD_NAME, UNFINISHED_NAME
from ..hub.requests import HubError, hub_api, readable_errors, with_retries
from ..hub.uploads import commit_files
from .finite_loss import FiniteLossTrainer

logger = logging.get_logger(__name__)


class HubTrainer(FiniteLossTrainer):
    """A [`~transformers.Trainer`] that pushes concept models: weights, config, reference texts and card, no pickles.

    A repository that cannot be written to is reported before training. If the Hub is down later, the model is
    on disk, training continues, and the command that pushes it is printed.
    """

    _hub: HfApi

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository, or raise `HubError` if the token may not write there, before time is spent."""
        if not self.is_world_process_zero():
            return
        args = self.args
        self.hub_model_id = args.hub_model_id or Path(args.output_dir).absolute().name
        self.push_in_progress = None
        private = args.hub_private_repo if private is None else private
        # One for all: jobs in the background wait for each other only within one client.
        self._hub = api = hub_api(token or args.hub_token)
        try:
            with readable_errors(self.hub_model_id, writing=True):
                self.hub_model_id = with_retries(
                    lambda: api.create_repo(self.hub_model_id, private=private, exist_ok=True),
                    f"creating {self.hub_model_id}",
                ).repo_id
        except HubError as error:
            if not error.temporary:
                raise
            logger.warning(f"{error} Training starts anyway. {self._how_to_push()}")

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model and, with `push_to_hub=True`, push it; if the Hub is down it is saved, and that is told."""
        try:
            super().save_model(output_dir, _internal_call)
        except HubError as error:
            if not error.temporary:
                raise
            logger.error(str(error))

    def push_to_hub(
        self,
        commit_message: str = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> CommitInfo | Future | None:
        """Save the model to `output_dir` and push it to `args.hub_model_id`.

        Args:
            commit_message (`str`): Of the commit.
            blocking (`bool`): Whether to wait until it is there.
            token (`str`, *optional*): Replaces `args.hub_token`.
            revision (`str`, *optional*): A branch; replaces `args.hub_revision`.
            private (`bool`, *optional*): Whether a new repository is private.
            **kwargs: As for [`ConceptModel.push_to_hub`][clvq_hf.ConceptModel.push_to_hub]: `concepts`, `evaluation`,
                `license`, `mask_toxic`, `mask_label`, `tags`, …

        Returns:
            `huggingface_hub.CommitInfo`, or a `Future` of it if not `blocking`; `None` on other processes than the
            first.

        Raises:
            HubError: If it could not be pushed. The message says where the model is kept, and how to push it later.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self._finish_current_push()
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        options = {"private": private, "token": token, "revision": revision, **kwargs}
        push = partial(self._publish, commit_message, **options)
        return push() if blocking else self._hub.run_as_future(push)

    def create_model_card(
        self, license: str | None = None, tags: str | Sequence[str] = (), model_name: str | None = None, **_: Any
    ) -> None:
        """Write the card of the saved model to `output_dir`, as a push would; what transformers would ask for is known.

        Args:
            license (`str`, *optional*): Of this model; that of the host if not given and known.
            tags (`str` or `Sequence[str]`): More tags.
            model_name (`str`, *optional*): Id of the repository; replaces `args.hub_model_id`.
        """
        from ..models.publishing import card_of_folder  # pulls pandas, scikit-learn and Jinja

        if self.is_world_process_zero():
            folder = Path(self.args.output_dir)
            repo_id = model_name or self.hub_model_id or self.args.hub_model_id or folder.absolute().name
            tags = [tags] if isinstance(tags, str) else tags
            write_whole(folder / CARD_NAME, str(card_of_folder(folder, repo_id, license=license, tags=tags)))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push the model of a checkpoint in the background, if `hub_strategy` says so."""
        args = self.args
        if not self.is_world_process_zero() or args.hub_strategy == HubStrategy.END:
            return
        busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if busy and not args.hub_always_push:
            return
        self.callback_handler.on_push_begin(args, self.state, self.control)
        # A copy: the checkpoint may be deleted by save_total_limit before it is uploaded.
        staged = ScratchFolder(args.output_dir)
        shutil.copytree(
            checkpoint_folder,
            staged.path,
            copy_function=_link_or_copy,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns(UNFINISHED_NAME),
        )
        by_step = args.save_strategy == SaveStrategy.STEPS
        when = f"step {self.state.global_step}" if by_step else f"epoch {int(self.state.epoch)}"
        place = {HubStrategy.CHECKPOINT: "last-checkpoint", HubStrategy.ALL_CHECKPOINTS: Path(checkpoint_folder).name}

        def push() -> None:
            try:
                with staged as folder:
                    self._publish(f"Training in progress, {when}", folder)
                    if args.hub_strategy in place:
                        self._push_checkpoint(folder, place[args.hub_strategy], when)
            except Exception as error:  # of a job in the background nobody else would hear
                logger.warning(f"Pushing at {when} failed; training continues. {error}")

        job = self._hub.run_as_future(push)
        if busy:
            self.push_in_progress.jobs.append(job)
        else:
            self.push_in_progress = PushInProgress([job])

    def _push_checkpoint(self, folder: Path, place: str, when: str) -> None:
        """Everything that resuming elsewhere needs, optimizer and scheduler included (which torch pickles)."""
        commit_files(
            {f"{place}/{file.name}": file for file in folder.iterdir() if file.is_file()},
            self.hub_model_id,
            stale=(f"{place}/*",),
            token=self.args.hub_token,
            revision=self.args.hub_revision,
            commit_message=f"Training in progress, {when}, checkpoint",
        )

    def _publish(self, commit_message: str, folder: Path | None = None, **options: Any) -> CommitInfo:
        from ..models.publishing import publish  # pulls pandas, scikit-learn and Jinja

        args = self.args
        options = {name: value for name, value in options.items() if value is not None}
        ours = {"private": args.hub_private_repo, "token": args.hub_token, "revision": args.hub_revision}
        folder = folder or Path(args.output_dir)
        try:
            return publish(folder, self.hub_model_id, commit_message=commit_message, **{**ours, **options})
        except HubError as error:
            raise HubError(f"{error} {self._how_to_push()}", error.temporary) from error

    def _how_to_push(self) -> str:
        args = self.args
        command = ["clvq-hf", "push", args.output_dir, self.hub_model_id]
        command += ["--revision", args.hub_revision] if args.hub_revision else []
        command += ["--private"] if args.hub_private_repo else []
        return f"The model is kept in {args.output_dir}; push it later with: {shlex.join(command)}"


def _link_or_copy(source: str, target: str) -> None:
    """A file at a second place, without its bytes where the file system can do that."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


__all__ = ["HubTrainer"]

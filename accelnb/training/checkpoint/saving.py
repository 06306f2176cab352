"""The steps of one save: a folder to write into, each rank's files, and the folder in its place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelnb.training.checkpoint import file_names, folder
from accelnb.training.checkpoint.contents import Contents
from accelnb.training.checkpoint.files import flush, warn_if_refused, write
from accelnb.training.checkpoint.manifest import Manifest
from accelnb.training.checkpoint.numbering import delete_oldest
from accelnb.training.collective_errors import of_every_rank, together
from accelnb.training.state import PartialState

if TYPE_CHECKING:
    from accelnb.training.checkpoint.sharded import Writing


@dataclass
class Save:
    """One save, as one rank sees it.

    Attributes
    ----------
    target : Path
        Where the checkpoint shall be.
    token : str
        The same on all ranks, another for each save.
    rank : int
        This rank.
    writers : list of int
        The ranks that write into the same folder. The first of them makes it and puts it in its
        place: rank 0, or on machines that do not share its disk their first rank.
    limit : int or None
        How many numbered checkpoints are kept.
    """

    target: Path
    token: str
    rank: int
    writers: list[int]
    limit: int | None = None

    @property
    def owns_folder(self) -> bool:
        return self.rank == self.writers[0]

    @property
    def new_folder(self) -> Path:
        return folder.staging(self.target, self.token)

    def parts(self, contents: Contents) -> Writing | None:
        """Plan who writes what of that which is divided over ranks. A collective."""
        if not any(of_every_rank(bool(contents.parts))):
            return None
        from accelnb.training.checkpoint.sharded import Writing  # slow to import

        path = self.new_folder / file_names.SHARDED
        return Writing(contents.parts, contents.aliases, path, self.writers, self.rank)

    def write(self, files: dict[str, Any]) -> None:
        """Write this rank's files."""
        for name, state in files.items():
            path = self.new_folder / name
            write(state, path)
            if path.suffix in (".bin", ".pkl"):
                warn_if_refused(path, path.stem)

    def complete(self, manifest: Manifest) -> None:
        """Put the folder in its place, now that every rank has written its part."""
        if not self.owns_folder:
            return
        for path in self.new_folder.rglob("*"):  # hooks may have written some
            flush(path)
        manifest.write(self.new_folder)
        folder.place(self.target, self.token)
        delete_oldest(self.target, self.limit)

    def discard(self) -> None:
        if self.owns_folder:
            folder.discard(self.target, self.token)


def begin(
    process: PartialState, target: Path, token: str, limit: int | None, numbered: bool
) -> Save:
    """Make the folder that this save writes into. A collective.

    Parameters
    ----------
    token
        The same on all ranks, another for each save.
    numbered
        Whether everything beside the target is of this project, also what is left of other saves.
    """

    def make() -> None:
        if numbered:
            for left in target.parent.glob(".checkpoint_*.saving-*"):
                folder.tidy(target.with_name(left.name[1:].partition(".")[0]))
        folder.make_staging(target, token)

    together(lambda: make() if process.is_main_process else None)
    shared = folder.staging(target, token).is_dir()
    rank, local = process.process_index, process.local_process_index
    owners = of_every_rank(0 if shared else rank - local)
    writers = [other for other, owner in enumerate(owners) if owner == owners[rank]]
    save = Save(target, token, rank, writers, limit)
    if set(owners) != {0}:  # some ranks do not see rank 0's disk
        together(lambda: make() if save.owns_folder and rank else None)
    return save

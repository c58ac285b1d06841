"""TensorBoard event files of a run, and the names that its numbers have on any board."""

from __future__ import annotations

from pathlib import Path

from icon_dist import storage
from icon_dist.loggers.events import Eval, Recorded
from icon_dist.storage import tempdirs

LARGEST_FILE = 4 << 20  # bytes of events after which another file is begun


def scalars(event: Recorded) -> dict[str, float]:
    """The numbers of a recorded event by their names on a board, such as ``train/heatmap`` and ``eval/AP``."""
    record = event.record()
    values = event.scores if isinstance(event, Eval) else {k: value for k, value in record.items() if k != "step"}
    return {f"{record['kind']}/{name}": value for name, value in values.items() if isinstance(value, int | float)}


class Board:
    """TensorBoard event files: written locally, copied to the run directory at every flush."""

    def __init__(self, run_uri: str, *, purge_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._target = storage.join(run_uri, "tensorboard")
        self._scratch = tempdirs.Folder("board")
        self._writer = SummaryWriter(self._scratch.name, purge_step=purge_step)

    def add(self, event: Recorded) -> None:
        """Add all numbers of ``event`` to the local files, at its step."""
        for name, value in scalars(event).items():
            self._writer.add_scalar(name, value, event.step)

    def upload(self) -> None:
        """Write what is in memory to the local files and copy them to ``tensorboard/`` of the run directory.

        A file that has become large is closed and not copied again: the next number opens another.
        """
        self._writer.flush()
        files = [*Path(self._scratch.name).iterdir()]
        for path in files:
            storage.write(storage.join(self._target, path.name), path)
        if sum(path.stat().st_size for path in files) > LARGEST_FILE:
            self._writer.close()
            for path in files:
                path.unlink()

    def close(self) -> None:
        """Remove the local files; what is to stay must have been uploaded."""
        self._writer.close()
        self._scratch.cleanup()

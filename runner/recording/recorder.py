"""One run's record: a TensorBoard event file, and metrics.csv with a row for each evaluated epoch."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
from torch import Tensor, nn

from runner.recording.events import Events, histograms, image, scalars, session_end, write_session
from runner.storage.atomic import replace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

END_STATUS = {"done": STATUS_SUCCESS, "diverged": STATUS_FAILURE, "failed": STATUS_FAILURE}


class Recorder:
    """Write one run's record into its directory: `events.out.tfevents.*` and `metrics.csv`.

    TensorBoard shows the same numbers under tags of its own order (`runner.recording.events.shown`).

    What was written up to the last call of `scalars`, `finish` or `close` survives the death of the process.
    A resumed run goes on with the record of its checkpoint: what was written after that is removed, and what
    stands there already (same tag, same epoch) is not written twice, so that the steps of each tag increase.

    Args:
        directory: the run's own directory; made if it is missing.
        hparams: what TensorBoard's table of hyperparameters shows of the run ("l2.weight": 0.001).
        group: the runs of one group, which differ in the seed alone, are averaged by TensorBoard.
        resume_at: last completed epoch of the checkpoint (0 or more), or None for a fresh run, which removes
            the record of an earlier attempt.
        history: rows of metrics.csv as of the checkpoint: an earlier recorder's `history`.

    Attributes:
        history: the rows of metrics.csv so far, each with its "epoch".
    """

    def __init__(
        self,
        directory: Path,
        *,
        hparams: Mapping[str, object],
        group: str,
        resume_at: int | None = None,
        history: Sequence[Mapping[str, float]] = (),
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.history = [dict(row) for row in history] if resume_at is not None else []
        self._table = directory / "metrics.csv"
        self._columns: list[str] = []
        self._rewrite_table()
        self._events = Events(directory, resume_at)
        write_session(directory, hparams, group)
        self._events.flush()

    def record_scalars(self, epoch: int, values: Mapping[str, float]) -> None:
        """Record numbers of an epoch: in TensorBoard, and under their keys in its row of metrics.csv."""
        numbers = {key: float(value) for key, value in values.items()}
        self._events.add(epoch, scalars(numbers))
        self._events.flush()
        if self.history and self.history[-1]["epoch"] == epoch:
            self.history[-1].update(numbers)
            self._rewrite_table()
        else:
            self.history.append({"epoch": epoch, **numbers})
            self._append_row()

    def record_histogram(self, epoch: int, tag: str, values: Tensor) -> None:
        """Record a histogram, such as that of the losses per example; what is not finite is left out."""
        self._events.add(epoch, histograms({tag: values.detach().flatten().float().cpu().numpy()}))

    @torch.no_grad()
    def record_layers(self, epoch: int, model: nn.Module) -> None:
        """Record of each layer the norm `weights/<layer>` and the histogram `weights/<layer>/values` of its
        weights, and the norm `gradients/<layer>` of their gradient (that of the last step), if there is one.

        A layer is a module with parameters of its own; biases are left out.
        """
        layers = _weights(model)
        flat = {layer: torch.cat([w.flatten().float() for w in weights]) for layer, weights in layers.items()}
        slopes = {layer: [w.grad for w in weights if w.grad is not None] for layer, weights in layers.items()}
        norms = {layer: nn.utils.get_total_norm(grads).float().view(1) for layer, grads in slopes.items() if grads}
        values, gradients = _to_host(flat, norms)
        numbers = {f"weights/{layer}": float(np.linalg.norm(array.astype(float))) for layer, array in values.items()}
        numbers |= {f"gradients/{layer}": float(norm[0]) for layer, norm in gradients.items()}
        spread = {f"weights/{layer}/values": array for layer, array in values.items()}
        self._events.add(epoch, [*scalars(numbers), *histograms(spread)])

    def record_figure(self, epoch: int, tag: str, figure: "Figure") -> None:
        """Record a picture."""
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=figure.dpi, pil_kwargs={"compress_level": 1})
        width, height = (round(side) for side in figure.bbox.size)
        self._events.add(epoch, [image(tag, png.getvalue(), width, height)])

    def record_best(self, epoch: int, best: Mapping[str, float]) -> None:
        """Record the numbers of the epoch that is the best so far, in TensorBoard alone: `Test/when_best/error`."""
        self._events.add(epoch, scalars({f"best/{key}": float(value) for key, value in best.items()}))

    def finish(self, status: str) -> None:
        """Record how the run ended.

        Args:
            status: done shows as success in TensorBoard's table, diverged and failed as failure; any other (the run
                was interrupted and will go on) as unknown. A run that is resumed takes it back.
        """
        epoch = int(self.history[-1]["epoch"]) if self.history else 0
        if status in END_STATUS:
            self._events.add(epoch, [session_end(END_STATUS[status])])
        self._events.flush()

    def close(self) -> None:
        """Write what is still pending and close the files; may be called twice."""
        self._events.close()

    def _append_row(self) -> None:
        if self.history[-1].keys() <= set(self._columns):
            with self._table.open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerow(self.history[-1])
        else:
            self._rewrite_table()

    def _rewrite_table(self) -> None:
        self._columns = list(dict.fromkeys(["epoch", *(key for row in self.history for key in row)]))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns)
        writer.writeheader()
        writer.writerows(self.history)
        replace(self._table, text.getvalue().encode())


def _weights(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    layers = {
        name or "model": [p for key, p in module.named_parameters(recurse=False) if not key.endswith("bias")]
        for name, module in model.named_modules()
    }
    return {name: weights for name, weights in layers.items() if weights}


def _to_host(*groups: Mapping[str, Tensor]) -> list[dict[str, np.ndarray]]:
    vectors = [vector for group in groups for vector in group.values()]
    if not vectors:
        return [{} for _ in groups]
    host = torch.cat(vectors).cpu()
    arrays = iter(array.numpy() for array in host.split([len(vector) for vector in vectors]))
    return [{name: next(arrays) for name in group} for group in groups]

"""TensorBoard's event files: what stands in them, and how a resumed run goes on with them.

Written with TensorBoard's own record writer and without a thread (`SummaryWriter` has one), so that a full
disk is an error where it happens and the files of a run sort in the order in which they were written.
"""

import io
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar_metadata
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util import tensor_util

from runner.storage.atomic import replace

BINS = 30  # as many as TensorBoard draws
LARGEST = float(np.finfo(np.float32).max)  # TensorBoard keeps histograms in float32
CHARTS = {
    "loss": [r"^(train|validation|test)/loss$"],
    "error": [r"^(train|validation|test)/error$"],
    "objective and penalties": [r"^train/(objective|loss|penalty/[^/]+)$"],
}


class Events:
    """The event files of a run's directory, open for writing at the end of the record.

    A step of a tag is written once: what stands there already is not written again, so that steps increase.

    Args:
        directory: the run's directory.
        resume_at: last step to keep (0 or more), or None to remove the files of an earlier attempt.
    """

    def __init__(self, directory: Path, resume_at: int | None) -> None:
        self._steps: dict[str, int] = {}  # last step of each tag
        for path in sorted(directory.glob("*tfevents*")):
            if resume_at is None:
                path.unlink()
            else:
                self._steps.update(_cut(path, resume_at))
        self._file = (directory / f"events.out.tfevents.{time.time_ns()}").open("wb")
        self._records = RecordWriter(self._file)
        self._write(Event(file_version="brain.Event:2"))
        # A TensorBoard that reads along (its Python reader) forgets the steps from here on.
        first = 0 if resume_at is None else resume_at + 1
        self._write(Event(step=first, session_log=SessionLog(status=SessionLog.START)))

    def add(self, step: int, values: Iterable[Summary.Value]) -> None:
        """Write the values whose tag does not have one of this step or a later one yet."""
        new = [value for value in values if step > self._steps.get(value.tag, -1)]
        if new:
            self._steps.update((value.tag, step) for value in new)
            self._write(Event(step=step, summary=Summary(value=new)))

    def flush(self) -> None:
        """Hand what was written over to the system: it survives the death of this process."""
        self._file.flush()

    def close(self) -> None:
        """Flush and close; may be called twice."""
        self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())


def _cut(path: Path, last: int) -> dict[str, int]:
    """Remove the events after step `last`, a torn record, and the run's end; return each tag's last step.

    Each file for itself, so that a process killed in between loses nothing and doubles nothing.
    """
    steps: dict[str, int] = {}
    kept = io.BytesIO()
    records = RecordWriter(kept)
    for event in LegacyEventFileLoader(str(path)).Load():
        tags = [value.tag for value in event.summary.value]
        if event.step <= last and metadata.SESSION_END_INFO_TAG not in tags:
            steps.update(dict.fromkeys(tags, event.step))
            records.write(event.SerializeToString())
    replace(path, kept.getvalue(), "record")  # a name like that of an event file TensorBoard would read
    return steps


def scalars(values: Mapping[str, float]) -> list[Summary.Value]:
    """Return numbers under their tags; NaN and infinity too."""
    return [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]


def histograms(values: Mapping[str, NDArray[np.floating]]) -> list[Summary.Value]:
    """Return histograms of the finite values, over their range; none where there are none."""
    finite = {tag: array[np.isfinite(array)] for tag, array in values.items()}
    return [Summary.Value(tag=tag, histo=_histogram(array)) for tag, array in finite.items() if array.size]


def _histogram(values: NDArray[np.floating]) -> HistogramProto:
    values = values.astype(np.float64).clip(-LARGEST, LARGEST)
    low, high = float(values.min()), float(values.max())
    counts, edges = np.histogram(values, np.linspace(low, high, BINS + 1))
    return HistogramProto(
        min=low,
        max=high,
        num=values.size,
        sum=values.sum(),
        sum_squares=values @ values,
        bucket_limit=edges[1:],
        bucket=counts,
    )


def image(tag: str, png: bytes, width: int, height: int) -> Summary.Value:
    """Return a PNG picture of width times height pixels."""
    picture = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
    return Summary.Value(tag=tag, image=picture)


def session_start(hparams: Mapping[str, object], group: str) -> Summary.Value:
    """Return a run's row in TensorBoard's table of hyperparameters; runs of one group are averaged in one row.

    No Experiment summary beside it: TensorBoard takes the columns from the first one that it finds, and runs
    with other penalties would lose theirs; without one it takes them from all runs.
    """
    start = SessionStartInfo(group_name=group, start_time_secs=time.time())
    for key, value in hparams.items():
        if isinstance(value, bool):  # before int, which a bool is too
            start.hparams[key].bool_value = value
        elif isinstance(value, int | float):
            start.hparams[key].number_value = value
        elif value is not None:
            start.hparams[key].string_value = str(value)
    return _session(metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start))


def session_end(status: int) -> Summary.Value:
    """Return how a run ended: `tensorboard.plugins.hparams.api_pb2.STATUS_SUCCESS` or `STATUS_FAILURE`."""
    end = SessionEndInfo(status=status, end_time_secs=time.time())
    return _session(metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end))


def _session(tag: str, data: HParamsPluginData) -> Summary.Value:
    return Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)


def custom_charts() -> Summary.Value:
    """Train against test in one chart: the layout of TensorBoard's "Custom Scalars" page, to write at step 0.

    TensorBoard takes the layout from the runs below its folder and merges equal ones. So each run's record holds it,
    and one run or many show the same page; in a folder of its own it would show as one more run.
    """
    charts = [
        layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=tags))
        for title, tags in CHARTS.items()
    ]
    category = layout_pb2.Category(title="train against test", chart=charts)
    content = layout_pb2.Layout(category=[category]).SerializeToString()
    return Summary.Value(
        tag=custom_scalar_metadata.CONFIG_SUMMARY_TAG,
        metadata=custom_scalar_metadata.create_summary_metadata(),
        tensor=tensor_util.make_tensor_proto(content),
    )

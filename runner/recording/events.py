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
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.summary.writer.record_writer import RecordWriter

from runner.config.tree import as_yaml
from runner.storage.atomic import replace

BINS = 30  # as many as TensorBoard draws
LARGEST = float(np.finfo(np.float32).max)  # TensorBoard keeps histograms in float32
NAME, DIGITS = "events.out.tfevents.", 6  # of the event files: a name, and their number in the run
SESSION = f"{NAME}0.hparams"  # sorts before the others
FIRST = ("test", "train", "validation")  # groups of tags that TensorBoard is to show first


class Events:
    """The event files of a run's directory, open for writing at the end of the record.

    A step of a tag is written once: what stands there already is not written again, so that steps increase.

    Args:
        directory: the run's directory.
        resume_at: last step to keep (0 or more), or None to remove the files of an earlier attempt.
    """

    def __init__(self, directory: Path, resume_at: int | None) -> None:
        self._steps: dict[str, int] = {}  # last step of each tag
        self._time = 0.0  # of the last event
        before = sorted(directory.glob(NAME + "[0-9]" * DIGITS))
        # TensorBoard reads the files of a run in the order of their names, so no clock may give them.
        number = 1 + max((int(path.suffix[1:]) for path in before), default=0)
        for path in before:
            if resume_at is None:
                path.unlink()
            else:
                self._cut(path, resume_at)
        self._file = (directory / f"{NAME}{number:0{DIGITS}}").open("wb")
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
        """Write an event, not earlier than the last one, whatever the clock: a chart by time would run backwards."""
        self._time = event.wall_time = max(self._time, time.time())
        self._records.write(event.SerializeToString())

    def _cut(self, path: Path, last: int) -> None:
        """Remove the events after step `last`, a torn record, and the run's end.

        Each file for itself, so that a process killed in between loses nothing and doubles nothing.
        """
        kept = io.BytesIO()
        records = RecordWriter(kept)
        for event in LegacyEventFileLoader(str(path)).Load():
            tags = [value.tag for value in event.summary.value]
            if event.step <= last and metadata.SESSION_END_INFO_TAG not in tags:
                self._steps.update(dict.fromkeys(tags, event.step))
                self._time = max(self._time, event.wall_time)
                records.write(event.SerializeToString())
        replace(path, kept.getvalue(), "record")  # a name like that of an event file TensorBoard would read


def shown(tag: str) -> str:
    """Return the tag under which TensorBoard shows a number: `Test/error` for `test/error`.

    TensorBoard sorts its groups by their names, capitals first: so losses, errors and penalties stand before all else.
    In its table of hyperparameters it shows the first five tags: so the best error is `Test/when_best/error`, close to
    the last one.
    """
    prefix, _, rest = tag.removeprefix("best/").partition("/")
    if prefix not in FIRST:
        return tag
    return f"{prefix.capitalize()}/{'when_best/' if tag.startswith('best/') else ''}{rest}"


def scalars(values: Mapping[str, float]) -> list[Summary.Value]:
    """Return numbers under the tags that TensorBoard shows; NaN and infinity too."""
    return [Summary.Value(tag=shown(tag), simple_value=value) for tag, value in values.items()]


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


def write_session(directory: Path, hparams: Mapping[str, object], group: str) -> None:
    """Write a run's row in TensorBoard's table of hyperparameters, in a file of its own, unless it stands there.

    TensorBoard shows the first row that it finds of a run. So a sweep can write it anew when it is known what differs.

    Args:
        directory: of the run.
        hparams: name -> value; what is no bool, number or string is shown as it is typed.
        group: runs of one group are averaged in one row.
    """
    row, path = _session_start(hparams, group), directory / SESSION
    if path.exists() and rows_of(path) == [row]:
        return
    content = io.BytesIO()
    records = RecordWriter(content)
    for event in (Event(file_version="brain.Event:2"), Event(summary=Summary(value=[row]))):
        event.wall_time = time.time()
        records.write(event.SerializeToString())
    replace(path, content.getvalue(), "record")


def rows_of(path: Path) -> list[Summary.Value]:
    """Return the values in an event file."""
    return [value for event in LegacyEventFileLoader(str(path)).Load() for value in event.summary.value]


def _session_start(hparams: Mapping[str, object], group: str) -> Summary.Value:
    """Return a run's row in TensorBoard's table of hyperparameters.

    No Experiment summary beside it: TensorBoard takes the columns from the first one that it finds, and runs
    with other penalties would lose theirs; without one it takes them from all runs.
    """
    start = SessionStartInfo(group_name=group)
    for key, value in hparams.items():
        if isinstance(value, bool):  # before int, which a bool is too
            start.hparams[key].bool_value = value
        elif isinstance(value, int | float):
            start.hparams[key].number_value = value
        else:
            start.hparams[key].string_value = value if isinstance(value, str) else as_yaml(value)
    return _session(metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start))


def session_end(status: int) -> Summary.Value:
    """Return how a run ended: `tensorboard.plugins.hparams.api_pb2.STATUS_SUCCESS` or `STATUS_FAILURE`."""
    end = SessionEndInfo(status=status, end_time_secs=time.time())
    return _session(metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end))


def _session(tag: str, data: HParamsPluginData) -> Summary.Value:
    return Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)

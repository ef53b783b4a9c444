"""Train against test in one chart: TensorBoard's "Custom Scalars" page, for all runs below a folder.

TensorBoard takes the layout from the runs below its folder and merges equal ones. So each run's record holds it, and
one run or many show the same page; in a folder of its own it would show as one more run.
"""

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.custom_scalar import layout_pb2, metadata
from tensorboard.util import tensor_util

CHARTS = {
    "loss": [r"^(train|validation|test)/loss$"],
    "error": [r"^(train|validation|test)/error$"],
    "objective and penalties": [r"^train/(objective|loss|penalty/[^/]+)$"],
}


def layout() -> Summary.Value:
    """Return the charts, as a value to write into a run's record at step 0."""
    charts = [
        layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=tags))
        for title, tags in CHARTS.items()
    ]
    category = layout_pb2.Category(title="train against test", chart=charts)
    content = layout_pb2.Layout(category=[category]).SerializeToString()
    return Summary.Value(
        tag=metadata.CONFIG_SUMMARY_TAG,
        metadata=metadata.create_summary_metadata(),
        tensor=tensor_util.make_tensor_proto(content),
    )

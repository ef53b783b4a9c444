"""Compare an epoch of the runner with a bare hand-written loop and with the usual DataLoader loop.

Also measure the share of a step that the check for NaN takes.

    uv run scripts/benchmark.py runner                          random images
    uv run scripts/benchmark.py runner --root data_root         MNIST
    uv run scripts/benchmark.py runner --rounds 3 --examples 20000 --threads 2

All loops train the lecture's MNIST network with SGD, batches of 100 and all cores. The DataLoader loop is that of
pytorch/examples: ToTensor and Normalize on each image when it is fetched. Targets: the runner takes at most 1.05 times
the time of the bare loop, and at most 0.45 (fp32) and 0.33 (bf16) times that of the DataLoader loop; the check for NaN
takes less than 1 % of a step.
"""

import os
import tempfile
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable
from typing import Any

import torch
from benchmark import Table, at_least, compare
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import data
from models import MNISTConvnet
from runner.build import build
from runner.loop import CHECK_EVERY, Loop
from runner.system import keep_freed_memory

BATCH, LR = 100, 0.1
MEAN, DEVIATION = 0.1307, 0.3081  # of MNIST, as in pytorch/examples


def main(arguments: list[str]) -> list[Table]:
    """Time the epochs side by side."""
    options = parsed(arguments)
    torch.set_num_threads(options.threads)
    images, labels = digits(options)
    loop = runner_loop(images, labels, "fp32")
    loops = {
        "bare loop": bare_epoch(images, labels),
        "runner": loop.run_epoch,
        "runner bf16": runner_loop(images, labels, "bf16").run_epoch,
        "bare loop bf16": bare_epoch(images, labels, bf16=True),
        "DataLoader loop": loader_epoch(images, labels),
    }
    timings = compare(loops, options.rounds)
    keep_freed_memory()  # as train.py does; it cannot be undone, so it comes last
    kept = compare({name: loops[name] for name in ("runner", "runner bf16")}, options.rounds)
    usual, bare = timings["DataLoader loop"].ratio, timings["bare loop"].seconds
    rows: list[list[str | float | None]] = [
        [name, found.seconds, found.ratio, found.ratio / usual, f"{found.low:.2f}-{found.high:.2f}"]
        for name, found in timings.items()
    ]
    rows += [[f"{n}, as run", k.seconds, k.seconds / bare, k.seconds / bare / usual, None] for n, k in kept.items()]
    share = seconds_of_check(loop) * loop.steps_per_epoch / kept["runner"].seconds
    return [
        Table(
            f"Epochs: {len(images)} images, batches of {BATCH}, {options.threads} threads",
            ["epoch", "seconds", "of bare loop", "of DataLoader loop", "quartiles"],
            rows,
            f"The check for NaN takes {share:.3%} of a step, as run.",
        ),
    ]


def parsed(arguments: list[str]) -> Namespace:
    parser = ArgumentParser(
        prog="benchmark.py runner", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", help="folder of MNIST (default: random images)")
    parser.add_argument("--rounds", type=at_least(2), default=5)
    parser.add_argument("--examples", type=at_least(1), default=60_000)
    parser.add_argument("--threads", type=at_least(1), default=os.cpu_count() or 1)
    return parser.parse_args(arguments)


def digits(options: Namespace) -> tuple[Tensor, Tensor]:
    """Return images (N, 1, 28, 28), bytes, and labels."""
    if options.root:
        part = data.MNIST(options.root).load().train[: options.examples]
        return part.inputs, part.targets
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (options.examples, 1, 28, 28), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, 10, (options.examples,), generator=generator)


def network() -> nn.Module:
    return MNISTConvnet(input_shape=(1, 28, 28), outputs=10)


def bare_epoch(images: Tensor, labels: Tensor, bf16: bool = False) -> Callable[[], object]:
    """Return the shortest loop that trains: tensors in memory, channels_last, no validation, nothing recorded."""
    inputs = ((images.float() / 255 - MEAN) / DEVIATION).contiguous(memory_format=torch.channels_last)
    model = network().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)

    def epoch() -> None:
        for indices in torch.randperm(len(inputs)).split(BATCH):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = cross_entropy(model(inputs[indices]).float(), labels[indices])
            loss.backward()
            optimizer.step()

    return epoch


def runner_loop(images: Tensor, labels: Tensor, precision: str) -> Loop:
    """Return the runner's loop on the same data, built from the config that a user would give."""
    from runner.config.compose import project_composer

    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        import numpy as np

        arrays = {"images": images.numpy(), "labels": labels.numpy()}
        np.savez(file, **{f"{part}_{name}": a for part in ("train", "test") for name, a in arrays.items()})
        file.flush()
        lines = ["data=npz", f"data.path={file.name}", "data.validation_size=0", "optimizer=sgd", f"optimizer.lr={LR}"]
        config = project_composer().compose([*lines, f"batch_size={BATCH}", f"precision={precision}"]).values
        return Loop(build(config), config)


def seconds_of_check(loop: Loop, times: int = 1000) -> float:
    """Return the seconds per step that the check for NaN and the means take: the mean over some checks."""
    objectives = [torch.zeros(())] * CHECK_EVERY
    began = time.perf_counter()
    for _ in range(times):
        loop.unchecked, loop.means.values = objectives, {"train/objective": objectives}
        loop.check_finite()
    return (time.perf_counter() - began) / times / CHECK_EVERY


def loader_epoch(images: Tensor, labels: Tensor) -> Callable[[], object]:
    """Return the loop of pytorch/examples: a DataLoader that transforms each image when it is fetched."""
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (DEVIATION,))])

    class Images(Dataset):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> tuple[Any, int]:
            return transform(Image.fromarray(images[index, 0].numpy())), int(labels[index])

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    loader = DataLoader(Images(), batch_size=BATCH, shuffle=True)

    def epoch() -> None:
        model.train()
        for inputs, targets in loader:
            optimizer.zero_grad()
            cross_entropy(model(inputs), targets).backward()
            optimizer.step()

    return epoch

"""What docs/results.md shows of the Jacobian: the plane through three images, and what grows with the outputs."""

from __future__ import annotations

import sys

import pytest
import torch
from support import ROOT

from losses import EagerForward

sys.path.insert(0, str(ROOT / "scripts"))
import benchmark_steps
from studies.jacobian_robust import BEYOND, GRID, distances, plane, slice_of


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (3, 1, 5, 4), generator=generator, dtype=torch.uint8)


def test_the_plane_keeps_the_distances_of_the_images_and_holds_them(images: torch.Tensor) -> None:
    directions, places, first = plane(images / 255)
    torch.testing.assert_close(directions @ directions.T, torch.eye(2).double())
    flat = images.flatten(1).double() / 255
    torch.testing.assert_close(torch.cdist(places, places), torch.cdist(flat, flat), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(first + places @ directions, flat, rtol=1e-5, atol=1e-5)


def test_points_of_the_slice_are_raw_images_at_their_coordinates(images: torch.Tensor) -> None:
    x, y, points, places = slice_of(images)
    assert points.shape == (GRID * GRID, 1, 5, 4)
    assert x[0] == pytest.approx(float(places[:, 0].min()) - BEYOND)
    assert y[-1] == pytest.approx(float(places[:, 1].max()) + BEYOND)
    step = torch.hypot(x[1] - x[0], y[1] - y[0])
    for image, place in zip(images, places, strict=True):
        nearest = torch.hypot(*(torch.cartesian_prod(x, y) - place).T).argmin()
        away = (points[nearest] - image.double()).norm() / 255
        assert away <= step / 2 + 1e-6


def test_a_distance_is_that_to_a_straight_boundary() -> None:
    x, y = torch.linspace(-3, 5, GRID).double(), torch.linspace(-2, 2, GRID).double()
    classes = (torch.cartesian_prod(x, y)[:, 0] > 1).long().view(GRID, GRID)
    places = torch.tensor([[0.0, 0.5], [3.0, -1.0], [-2.0, 0.0]]).double()
    assert distances(classes, x, y, places) == pytest.approx([1.0, 2.0, 3.0], abs=1.5 * float(x[1] - x[0]))


@pytest.mark.parametrize(
    ("what", "products"), [("none", 0), ("1 projection", 1), ("3 projections", 3), ("exact", None)]
)
@pytest.mark.parametrize("outputs", [5, 20])
def test_random_projections_take_as_many_products_for_any_number_of_outputs(
    what: str, products: int | None, outputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This is why their cost does not grow with the outputs; the exact penalty takes one product for each."""
    calls, vjp = [], EagerForward.vjp

    def counted(self: EagerForward, *arguments: object, **options: object) -> tuple[torch.Tensor, ...]:
        calls.append(arguments)
        return vjp(self, *arguments, **options)

    monkeypatch.setattr(EagerForward, "vjp", counted)
    benchmark_steps.work(what, outputs)()
    assert len(calls) == (outputs if products is None else products)


def test_the_probe_of_the_benchmark_is_that_of_a_run() -> None:
    found = benchmark_steps.work(benchmark_steps.PROBE, 5)()
    assert set(found) == {"frobenius", "sigma_1"}
    assert 0 < found["sigma_1"] <= found["frobenius"]

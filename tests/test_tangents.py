"""Tangents against images that are really moved, in float64."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

import data
from data.tangents import FIELDS
from runner.training.instantiate import construct

SIGMA = 0.9


def blobs(x, y, parameters, smoothing=0.0):
    """A sum of Gaussian blobs at (x, y), as the plane would see it after Gaussian smoothing (exactly)."""
    total = torch.zeros_like(x)
    for centre_x, centre_y, width, height in parameters:
        variance = width**2 + smoothing**2
        distance = (x - centre_x) ** 2 + (y - centre_y) ** 2
        total = total + height * width**2 / variance * torch.exp(-distance / (2 * variance))
    return total


def grid(height=28, width=28):
    x = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    y = torch.arange(height, dtype=torch.float64) - (height - 1) / 2
    return x.expand(height, width), y.unsqueeze(1).expand(height, width)


PICTURES = [
    [(-3.0, 2.0, 2.0, 1.0), (4.0, -1.0, 1.6, 0.7)],
    [(0.5, 5.0, 1.8, 0.9), (-4.0, -4.0, 2.2, -0.4)],
    [(5.0, 1.0, 2.0, 1.2), (1.0, -5.0, 1.7, 0.8)],
]

# How each transformation of size e moves the coordinates; from the definitions, not from the code under test.
MOVES = {
    "translation_x": lambda x, y, e: (x + e, y),
    "translation_y": lambda x, y, e: (x, y + e),
    "scaling": lambda x, y, e: (x * (1 + e), y * (1 + e)),
    "rotation": lambda x, y, e: (
        x * math.cos(e) + y * math.sin(e),
        y * math.cos(e) - x * math.sin(e),
    ),
    "axis_hyperbolic": lambda x, y, e: (x * (1 + e), y * (1 - e)),
    "diagonal_hyperbolic": lambda x, y, e: (x + e * y, y + e * x),
}


def moved(name, e=1e-5):
    """Central difference of the smoothed pictures under a transformation; thickness from two of them."""
    if name == "thickness":
        return moved("translation_x").square() + moved("translation_y").square()
    x, y = grid()
    ahead, behind = (
        torch.stack([blobs(*MOVES[name](x, y, step), picture, SIGMA) for picture in PICTURES]) for step in (e, -e)
    )
    return ((ahead - behind) / (2 * e)).unsqueeze(1)


@pytest.fixture(scope="module")
def images():
    return torch.stack([blobs(*grid(), picture) for picture in PICTURES]).unsqueeze(1)


@pytest.fixture(scope="module")
def digits():
    raw = data.Digits().load()
    return data.prepare(raw, validation_size=0).train.inputs[:200].double()


@pytest.mark.parametrize("name", [*MOVES, "thickness"])
def test_tangent_is_the_derivative_of_the_moved_smoothed_image(images, name):
    (tangent,) = data.Tangents([name], sigma=SIGMA).fit(images)(images)
    expected = moved(name)
    expected = expected / expected.flatten(1).norm(dim=1).mean()
    torch.testing.assert_close(tangent, expected, atol=2e-3, rtol=0)


def test_every_tangent_is_tested():
    assert set(FIELDS) == {*MOVES, "thickness"}


def test_shift_of_real_digits_follows_the_tangent(digits):
    tangents = data.Tangents(["translation_x", "translation_y"]).fit(digits)(digits)
    smooth = data.tangents.filters(28, SIGMA, digits)[0]
    smoothed = smooth @ digits @ smooth.T
    for tangent, dim in zip(tangents, (3, 2), strict=True):
        difference = (smoothed.roll(-1, dim) - smoothed.roll(1, dim))[..., 2:-2, 2:-2].flatten(1)
        cosine = torch.cosine_similarity(difference, tangent[..., 2:-2, 2:-2].flatten(1))
        assert cosine.min() > 0.97


# How the transformation of size e reads the plane, as scipy has it: (rows, columns) = matrix @ (rows, columns) from the
# centre, plus a shift.
SCIPY_MOVES = {
    "translation_x": lambda e: (np.eye(2), np.array([0, e])),
    "translation_y": lambda e: (np.eye(2), np.array([e, 0])),
    "scaling": lambda e: (np.eye(2) * (1 + e), np.zeros(2)),
    "rotation": lambda e: (np.array([[math.cos(e), -math.sin(e)], [math.sin(e), math.cos(e)]]), np.zeros(2)),
}


def really_moved(image, name, e=0.01):
    """Central difference of a smoothed image under a transformation, by scipy's splines."""
    smoothed = ndimage.gaussian_filter(image, SIGMA, mode="nearest")
    centre = (np.array(image.shape) - 1) / 2
    ahead, behind = (
        ndimage.affine_transform(smoothed, matrix, centre - matrix @ centre + shift, order=5, mode="nearest")
        for matrix, shift in map(SCIPY_MOVES[name], (e, -e))
    )
    return (ahead - behind) / (2 * e)


@pytest.mark.parametrize("normalize", ["scalar", "component", "none"])
def test_tangent_is_how_the_raw_image_moves_in_the_units_of_the_network(normalize):
    raw = data.Digits().load()
    dataset = data.prepare(raw, normalize=normalize, validation_size=0)
    pictures = raw.train.inputs[:20, 0].double().numpy()
    tangents = construct({"_target_": "data.Tangents", "names": list(SCIPY_MOVES)}, dataset)
    inputs = dataset.train.inputs[:20]
    signs = torch.ones(len(SCIPY_MOVES), 20)
    torch.testing.assert_close(tangents.combined(inputs, signs), tangents(inputs).sum(0), rtol=1e-4, atol=1e-5)
    for tangent, name in zip(tangents(inputs), SCIPY_MOVES, strict=True):
        moved = torch.from_numpy(np.stack([really_moved(picture, name) for picture in pictures])) / dataset.scale
        cosine = torch.cosine_similarity(moved.reshape(20, -1), tangent.flatten(1))
        assert cosine.min() > 0.99, name
        assert cosine.mean() > 0.996, name
    norms = tangents(dataset.train.inputs).flatten(2).norm(dim=2).mean(1)
    torch.testing.assert_close(norms, torch.ones(len(SCIPY_MOVES)))


def test_one_scale_for_all_pixels_changes_no_bit(digits):
    torch.testing.assert_close(
        data.Tangents().fit(digits, torch.tensor(33.0), torch.tensor(78.6))(digits[:5]),
        data.Tangents().fit(digits)(digits[:5]),
        rtol=0,
        atol=0,
    )


def test_mean_norm_over_the_fitted_images_is_one(digits):
    tangents = data.Tangents().fit(digits)(digits)
    norms = tangents.flatten(2).norm(dim=2).mean(1)
    torch.testing.assert_close(norms, torch.ones(7, dtype=torch.float64))


def test_tangent_does_not_depend_on_the_rest_of_the_batch(digits):
    tangents = data.Tangents().fit(digits)
    torch.testing.assert_close(tangents(digits[:3]), tangents(digits)[:, :3])


@pytest.mark.parametrize("names", [None, ["rotation"], ["thickness", "scaling"]])
def test_combined_is_the_signed_sum(digits, names):
    tangents = data.Tangents(names).fit(digits)
    assert len(tangents) == len(names or FIELDS)
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (len(tangents), 200), generator=generator) * 2 - 1
    expected = torch.einsum("kn,kncij->ncij", signs.double(), tangents(digits))
    torch.testing.assert_close(tangents.combined(digits, signs), expected)


def test_names_choose_and_order(digits):
    every = data.Tangents().fit(digits)(digits)
    some = data.Tangents(["thickness", "translation_y"]).fit(digits)(digits)
    torch.testing.assert_close(some, torch.stack([every[6], every[1]]))


def test_channels_are_treated_alike(digits):
    colour = torch.cat([digits, -2 * digits, 0 * digits], dim=1)
    grey = data.Tangents(["rotation"]).fit(digits)(digits)
    found = data.Tangents(["rotation"]).fit(colour)(colour) * 5**0.5  # norms: (1, 2, 0) times the grey one's
    torch.testing.assert_close(found, torch.cat([grey, -2 * grey, 0 * grey], dim=2))


def test_image_need_not_be_square():
    x, y = grid(20, 32)
    image = blobs(x, y, PICTURES[0])[None, None]
    (tangent,) = data.Tangents(["translation_x"]).fit(image)(image)
    wide, _ = grid(28, 32)
    wide_image = blobs(wide, grid(28, 32)[1], PICTURES[0])[None, None]
    (expected,) = data.Tangents(["translation_x"]).fit(wide_image)(wide_image)
    torch.testing.assert_close(tangent, expected[..., 4:-4, :], atol=1e-3, rtol=0)


def test_background_makes_no_edge_at_the_border(images):
    blank = torch.full((2, 1, 28, 28), -0.42, dtype=torch.float64)
    assert data.Tangents().fit(images)(blank).abs().max() < 1e-12


def test_what_lies_beyond_the_border_is_the_last_pixel():
    ramp = grid()[0].reshape(1, 1, 28, 28)
    (slope,) = data.Tangents(["translation_x"]).fit(ramp)(ramp)
    assert slope.min() > 0  # the image goes on level; were it periodic, there would be a cliff
    torch.testing.assert_close(slope[..., 4:-4], slope[..., 14:15].expand(1, 1, 28, 20))


def test_empty_images_have_zero_tangents():
    zeros = torch.zeros(2, 1, 28, 28)
    assert data.Tangents().fit(zeros)(zeros).abs().max() == 0


def test_no_graph_and_no_autocast(digits):
    tangents = data.Tangents().fit(digits[:50].float())
    inputs = digits[:5].float().requires_grad_()
    signs = torch.ones(7, 5)
    plain = tangents(inputs.detach()), tangents.combined(inputs.detach(), signs)
    with torch.autocast("cpu", torch.bfloat16):
        cast = tangents(inputs), tangents.combined(inputs, signs)
    assert not cast[0].requires_grad
    assert not cast[1].requires_grad
    torch.testing.assert_close(cast, plain, rtol=0, atol=0)


@pytest.fixture
def points():
    return torch.tensor([[0.0], [0.5], [1.0]], dtype=torch.float64)


def test_points_have_the_one_tangent(points):
    tangents = data.Tangents().fit(points)
    assert len(tangents) == 1
    torch.testing.assert_close(tangents(points), torch.ones(1, 3, 1, dtype=torch.float64))
    signs = torch.tensor([[1, -1, -1]])
    torch.testing.assert_close(tangents.combined(points, signs), signs.T.double())
    assert tangents.derivatives_at(points) is None


def test_given_derivatives(points):
    one = data.Tangents(derivatives=2.0).fit(points)
    torch.testing.assert_close(one.derivatives_at(points), torch.full((1, 3, 1), 2.0, dtype=torch.float64))
    each = data.Tangents(derivatives=[1.0, 2.0, 3.0]).fit(points)
    asked = torch.tensor([[1.0], [0.0], [0.52], [0.49]], dtype=torch.float64)
    assert each.derivatives_at(asked).flatten().tolist() == [3.0, 1.0, 2.0, 2.0]
    assert data.Tangents(derivatives=0.0).fit(points).derivatives_at(points).abs().max() == 0


@pytest.mark.parametrize("scale", [4.0, torch.tensor(4.0), torch.tensor([4.0])])
def test_derivatives_are_by_the_raw_input(points, scale):
    """Outputs 3 raw = 3 (4 x + 1) have the slope 12 in x."""
    tangents = data.Tangents(derivatives=3.0).fit(points, 1.0, scale)
    torch.testing.assert_close(tangents.derivatives_at(points), torch.full((1, 3, 1), 12.0, dtype=torch.float64))


def test_derivatives_are_in_the_precision_of_the_inputs(points):
    for given in (0.1, [0.1, 0.1, 0.1]):
        found = data.Tangents(derivatives=given).fit(points).derivatives_at(points)
        assert found.flatten().tolist() == [0.1, 0.1, 0.1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"names": ["shear"]}, r"^names must be among translation_x, .*, thickness, got shear$"),
        ({"names": []}, r"^names must hold at least one tangent or be null"),
        ({"names": ["scaling", "scaling"]}, r"^names must differ from each other, got scaling, scaling$"),
        ({"sigma": 0.0}, r"^sigma must be positive and finite \(pixels\), got 0.0$"),
        ({"sigma": math.nan}, r"^sigma must be positive"),
        ({"derivatives": [0.0, math.inf]}, r"^derivatives must be finite, got inf$"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        data.Tangents(**arguments)


def test_arguments_that_do_not_fit_the_data(points):
    images = torch.rand(2, 1, 8, 8)
    with pytest.raises(ValueError, match=r"^names must be null for points .*, got rotation$"):
        data.Tangents(["rotation"]).fit(points)
    with pytest.raises(ValueError, match=r"^derivatives must be null for images .*, got 1.0$"):
        data.Tangents(derivatives=1.0).fit(images)
    with pytest.raises(ValueError, match=r"^derivatives must be one number or 3, .*, got 2$"):
        data.Tangents(derivatives=[1.0, 2.0]).fit(points)
    with pytest.raises(ValueError, match=r"examples \(2,\)$"):
        data.Tangents().fit(torch.rand(5, 2))
    with pytest.raises(ValueError, match="must be fitted"):
        data.Tangents()(images)
    with pytest.raises(ValueError, match=r"fitted to examples \(1, 8, 8\) .* examples \(1, 9, 9\)$"):
        data.Tangents().fit(images)(torch.rand(2, 1, 9, 9))

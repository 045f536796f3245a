"""Views of pictures and rows: what may change and what may not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from portcullis_ml.models.views import picture_view, row_view


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


SHAPES = [(9, 12), (9, 12, 1), (9, 12, 3), (3, 9, 12)]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_picture_keeps_its_shape_and_its_range(shape: tuple[int, ...]) -> None:
    x = 255 * torch.rand(20, *shape)
    view = picture_view(x, 0, 255, crop=0.2, mirror=True)
    assert view.shape == x.shape
    assert view.min() >= 0
    assert view.max() <= 255
    assert not torch.equal(view, picture_view(x, 0, 255, crop=0.2, mirror=True))


def test_layouts_are_treated_alike() -> None:
    x = torch.rand(6, 3, 9, 12)
    views = []
    for layout in (x, x.permute(0, 2, 3, 1)):
        torch.manual_seed(1)
        views.append(picture_view(layout, 0, 1, crop=0.5, mirror=True))
    torch.testing.assert_close(views[0], views[1].permute(0, 3, 1, 2))


def where(x: Tensor) -> Tensor:
    """(n,) the column of the brightest place."""
    return x.flatten(1).argmax(1) % x.shape[2]


def test_a_picture_is_mirrored_only_where_it_may_be() -> None:
    x = torch.zeros(200, 8, 8)
    x[:, 3, 1] = 1
    assert (where(picture_view(x, 0, 1, crop=1.0, mirror=False)) < 4).all()
    turned = (where(picture_view(x, 0, 1, crop=1.0, mirror=True)) > 3).float().mean()
    assert 0.35 < turned < 0.65


def test_a_crop_shows_less_and_enlarges_it() -> None:
    x = torch.linspace(0, 1, 16).expand(300, 16, 16).clone()  # brighter to the right
    view = picture_view(x, -9, 11, crop=0.2, mirror=False)  # a range in which the colours hardly change the order
    seen = (view[:, :, -1] - view[:, :, 0]).mean(1) / (x[:, 0, -1] - x[:, 0, 0])
    assert seen.min() > 0.1
    assert 0.4 < seen.mean() < 0.95


def test_some_pictures_turn_gray_and_others_change_colours() -> None:
    x = torch.rand(300, 1, 1, 3).expand(300, 4, 4, 3)
    view = picture_view(x, 0, 1, crop=1.0, mirror=False)
    gray = (view.amax(3) - view.amin(3) < 1e-5).all((1, 2)) if view.ndim == 4 else None
    assert gray is not None
    assert 0.1 < gray.float().mean() < 0.3
    kept = (view - x).abs().amax((1, 2, 3)) < 1e-4
    assert 0.08 < kept.float().mean() < 0.25  # neither jittered (a fifth) nor gray


def test_columns_come_from_the_same_columns_of_other_rows() -> None:
    x = torch.arange(50.0)[:, None] + torch.tensor([0.0, 1000, 2000, 3000])
    view = row_view(x, torch.arange(4), 0.6)
    assert torch.equal(view // 1000, x // 1000)  # each value is one of its own column
    share = (view != x).float().mean()
    assert 0.45 < share < 0.7


def test_columns_of_a_group_stay_together() -> None:
    """The indicators of one category come from one row: exactly one of them is set."""
    codes = torch.randint(3, (80,))
    x = torch.cat([torch.rand(80, 1), torch.eye(3)[codes]], 1)
    view = row_view(x, torch.tensor([0, 1, 1, 1]), 0.5)
    assert (view[:, 1:].sum(1) == 1).all()
    assert not torch.equal(view[:, 1:], x[:, 1:])


def test_rows_of_any_shape() -> None:
    x = torch.rand(30, 2, 3)
    assert row_view(x, torch.arange(6), 0.5).shape == x.shape

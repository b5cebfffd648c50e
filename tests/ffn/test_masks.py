"""Where nothing may start, move or be labelled, nothing does."""

import numpy as np
import pytest

from ffn.inference import InferenceError, segment
from ffn.masks import MaskError, Masks
from tests.ffn.test_inference import brightness_model, two_slabs


def box(shape: tuple[int, ...], *, x: slice) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[:, :, x] = True
    return mask


def test_the_table_of_permissions() -> None:
    tissue = np.array([[[True, True, True, False]]])
    resin = np.array([[[False, True, False, False]]])
    artefact = np.array([[[False, False, True, True]]])
    masks = Masks.combine(tissue=tissue, resin=resin, artefact=artefact)
    assert masks.labels is not None
    assert masks.seeds is masks.moves is masks.starts
    assert masks.labels.tolist() == [[[True, False, True, False]]]
    assert masks.moves is not None
    assert masks.moves.tolist() == [[[True, False, False, False]]]
    assert Masks.combine() == Masks() == Masks.of(None)
    assert Masks.combine(artefact=artefact).labels is None
    with pytest.raises(MaskError, match=r"shapes .* differ"):
        Masks.combine(tissue=tissue, resin=resin[:, :, :3])


def test_no_seed_and_no_move_in_an_artefact_but_labels_from_beside_it() -> None:
    image, truth = two_slabs()
    artefact = box(image.shape, x=slice(6, 8))  # in the middle of the first slab
    found = segment(image, model=brightness_model(), mask=Masks.combine(artefact=artefact))
    assert found.counters.objects == 2
    assert not artefact[tuple(found.moves_zyx.T)].any()
    assert not any(artefact[a.seed_zyx] for a in found.attempts)
    assert (found.labels[artefact & (truth == 1)] > 0).mean() > 0.7


@pytest.mark.parametrize("kind", ["resin", "tissue"])
def test_no_seed_no_move_and_no_label_in_resin_or_outside_the_tissue(kind: str) -> None:
    image, _ = two_slabs()
    forbidden = box(image.shape, x=slice(6, 8))
    masks = Masks.combine(resin=forbidden) if kind == "resin" else Masks.combine(tissue=~forbidden)
    found = segment(image, model=brightness_model(), mask=masks)
    assert found.counters.objects >= 2
    assert not forbidden[tuple(found.moves_zyx.T)].any()
    assert not any(forbidden[a.seed_zyx] for a in found.attempts)
    assert not found.labels[forbidden].any()


def test_seeds_moves_and_labels_are_restricted_each_by_its_own() -> None:
    image, truth = two_slabs()
    left = box(image.shape, x=slice(0, 13))
    model = brightness_model()
    seeds_only = segment(image, model=model, mask=Masks(seeds=left))
    assert seeds_only.counters.objects == 1
    assert all(left[a.seed_zyx] for a in seeds_only.attempts)
    labels_only = segment(image, model=model, mask=Masks(labels=left))
    assert not left[tuple(labels_only.moves_zyx.T)].all()
    assert not labels_only.labels[truth == 2].any()
    moves_only = segment(image, model=model, mask=Masks(moves=left))
    assert left[tuple(moves_only.moves_zyx.T)].all()
    assert all(left[a.seed_zyx] for a in moves_only.attempts)  # a seed is a centre too


def test_an_empty_mask_gives_nothing_at_no_cost() -> None:
    image, _ = two_slabs()
    nothing = np.zeros(image.shape, bool)
    for mask in (nothing, Masks(seeds=nothing), Masks(moves=nothing)):
        found = segment(image, model=brightness_model(), mask=mask)
        assert not found.labels.any()
        assert (found.counters.fovs, found.counters.seeds, found.attempts) == (0, 0, ())
    unlabelled = segment(image, model=brightness_model(), mask=Masks(labels=nothing))
    assert not unlabelled.labels.any()
    assert {a.outcome for a in unlabelled.attempts} == {"small"}


@pytest.mark.parametrize("mask", [np.ones((26, 24, 27), bool), np.ones((26, 24, 28), np.uint8)])
def test_a_mask_that_does_not_fit_is_named(mask: np.ndarray) -> None:
    image, _ = two_slabs()
    with pytest.raises(InferenceError, match=r"mask: expected bool \(26, 24, 28\), found .* for moves"):
        segment(image, model=brightness_model(), mask=Masks(moves=mask))

"""Examples are centred on objects, evenly spread over fill fractions, and numbered."""

import numpy as np
import pytest

from ffn.augment import AugmentConfig
from ffn.config import ConfigError, Normalisation
from ffn.examples import ExampleConfig, ExampleSource, TrainingVolume

SHAPE = (9, 9, 9)
PLAIN = AugmentConfig(flip=False, swap_axes="", contrast=0.0, brightness=0.0, noise=0.0)


def thick_and_thin() -> TrainingVolume:
    """A slab that fills its surroundings (label 1) and a wire one voxel thick (label 2)."""
    labels = np.zeros((24, 24, 48), np.uint32)
    labels[:, :, :24] = 1
    labels[12, :, 36] = 2
    return TrainingVolume(image=(labels * 50 + 50).astype(np.uint8), labels=labels)


def source(config: ExampleConfig | None = None, seed: int = 0) -> ExampleSource:
    return ExampleSource(
        [thick_and_thin()],
        config=config or ExampleConfig(shape_zyx=SHAPE, fill_fractions=(0.1, 0.5, 0.9, 1.0)),
        augmentation=PLAIN,
        normalisation=Normalisation(mean=100.0, std=50.0),
        seed=seed,
    )


def test_number_decides_the_example() -> None:
    a, b = source(), source()
    for number in (0, 5, 77):
        np.testing.assert_array_equal(a[number].image, b[number].image)
        np.testing.assert_array_equal(a[number].target, b[number].target)
    assert any((source(seed=1)[n].target != a[n].target).any() for n in range(5))


def test_the_centre_belongs_to_the_object_and_greys_are_normalised() -> None:
    examples = source()
    for number in range(30):
        example = examples[number]
        assert example.target[4, 4, 4]
        assert example.image.shape == example.target.shape == SHAPE
        grey = {1: 0.0, 2: 1.0}[1 if example.target.mean() > 0.1 else 2]
        np.testing.assert_allclose(example.image[example.target], grey, atol=1e-5)


def test_rare_thin_objects_are_sampled_as_often_as_thick_ones() -> None:
    examples = source()
    fractions = np.array([examples[n].target.mean() for n in range(400)])
    thin = (fractions < 0.1).mean()  # 16 voxels of the 24^3 that can be centres
    assert 0.15 < thin < 0.55


def test_errors_name_what_does_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"volumes\[0\]: \(24, 24, 48\) is smaller than an example"):
        source(ExampleConfig(shape_zyx=(25, 25, 25)))
    with pytest.raises(ConfigError, match="fill_fractions"):
        ExampleConfig(fill_fractions=(0.5, 0.2, 1.0))
    with pytest.raises(ConfigError, match="labels: must have the shape"):
        TrainingVolume(image=np.zeros((3, 3, 3), np.uint8), labels=np.zeros((3, 3, 4), np.uint32))
    empty = TrainingVolume(image=np.zeros((24, 24, 24), np.uint8), labels=np.zeros((24, 24, 24), np.uint32))
    with pytest.raises(ConfigError, match="no labelled voxel"):
        ExampleSource(
            [empty],
            config=ExampleConfig(shape_zyx=SHAPE),
            augmentation=PLAIN,
            normalisation=Normalisation(),
            seed=0,
        )

"""Examples are centred on objects, evenly spread over fill fractions, and numbered."""

import pathlib
import tracemalloc

import numpy as np
import pytest

from ffn.augment import AugmentConfig
from ffn.config import ConfigError, Normalisation
from ffn.examples import ExampleConfig, ExampleSource, TrainingVolume, _positions

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


def examples_of(volume: TrainingVolume, **changes: object) -> ExampleSource:
    return ExampleSource(
        [volume],
        config=ExampleConfig(shape_zyx=SHAPE, fill_fractions=(0.1, 0.5, 0.9, 1.0), **changes),  # type: ignore[arg-type]
        augmentation=PLAIN,
        normalisation=Normalisation(mean=100.0, std=50.0),
        seed=0,
    )


class OnDemand:
    """A volume of any size that is computed where it is read; remembers where, and the largest read."""

    def __init__(self, shape: tuple[int, int, int], dtype: str, *, grey: bool) -> None:
        self.shape, self.dtype, self._grey = shape, np.dtype(dtype), grey
        self.reads, self.largest_bytes = 0, 0
        self.corners: set[tuple[int, ...]] = set()

    def __getitem__(self, where: tuple[slice, slice, slice]) -> np.ndarray:
        z, y, x = np.ogrid[where]
        labels = (1 + z // 20 + 1000 * (y // 20) + 1_000_000 * (x // 20)).astype(self.dtype)
        labels = np.where((z % 20 < 3) | (y % 20 < 3) | (x % 20 < 3), 0, labels).astype(self.dtype)
        self.reads += 1
        self.corners.add(tuple(axis.start for axis in where))
        self.largest_bytes = max(self.largest_bytes, labels.nbytes)
        return np.where(labels > 0, 150, 50).astype(self.dtype) if self._grey else labels


def test_a_volume_larger_than_memory_is_read_box_by_box() -> None:
    budget = 24 << 20
    shape = (8192, 8192, 8192)  # half a terabyte of image, 4 of labels
    image, labels = OnDemand(shape, "uint8", grey=True), OnDemand(shape, "uint64", grey=False)
    tracemalloc.start()
    source = examples_of(TrainingVolume(image=image, labels=labels), positions_per_volume=2000)
    examples = [source[n] for n in range(20)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < budget
    assert labels.reads == 8 + 20  # a block for 250 positions, then one box an example
    assert image.largest_bytes == 9**3
    assert len(labels.corners) == 8 + 20
    for example in examples:
        np.testing.assert_allclose(example.image[example.target], 1.0, atol=1e-5)
        assert example.target[4, 4, 4]


def test_storage_does_not_matter(tmp_path: pathlib.Path) -> None:
    volume = thick_and_thin()
    for name, array in (("image", volume.image), ("labels", volume.labels)):
        np.save(tmp_path / f"{name}.npy", array)
    mapped = TrainingVolume(
        image=np.load(tmp_path / "image.npy", mmap_mode="r"),
        labels=np.load(tmp_path / "labels.npy", mmap_mode="r"),
    )
    a, b = examples_of(volume), examples_of(mapped)
    for number in range(10):
        np.testing.assert_array_equal(a[number].image, b[number].image)
        np.testing.assert_array_equal(a[number].target, b[number].target)


def test_fill_fractions_of_blocks_are_those_of_the_examples() -> None:
    labels = np.random.default_rng(0).integers(0, 2, (80, 150, 40)).astype(np.uint8)
    labels = np.kron(labels[::4, ::4, ::4], np.ones((4, 4, 4), np.uint8))
    volume = TrainingVolume(image=labels * 100, labels=labels)
    config = ExampleConfig(shape_zyx=(11, 11, 11), positions_per_volume=1500)
    found = list(_positions(volume, config, np.random.default_rng(1), field="volume"))
    assert len(found) == 2 * 3 * 1  # blocks of 64 centres
    centres = np.concatenate([c for c, _ in found])
    fractions = np.concatenate([f for _, f in found])
    assert (centres >= 5).all()
    assert (centres < np.array(labels.shape) - 5).all()
    assert centres.max(axis=0).tolist() > [70, 140, 30]
    exact = [(labels[z - 5 : z + 6, y - 5 : y + 6, x - 5 : x + 6] == 1).mean() for z, y, x in centres]
    assert (labels[tuple(centres.T)] == 1).all()
    assert np.abs(fractions - exact).max() < 0.2
    assert np.abs(fractions - exact).mean() < 0.03


def test_unknown_voxels_are_known_to_be_so_and_never_centres() -> None:
    volume = thick_and_thin()
    labels = np.asarray(volume.labels[:, :, :]).copy()
    labels[:, :6] = 9
    labels[:, 18:] = 7  # background of another name
    hidden = TrainingVolume(image=volume.image, labels=labels, background_labels=(0, 7), ignore_labels=(9,))
    source = examples_of(hidden)
    partly = 0
    for number in range(60):
        example = source[number]
        assert example.known is not None
        assert example.target[4, 4, 4]
        assert not example.target[~example.known].any()
        partly += int(not example.known.all())
    assert partly > 5
    assert examples_of(volume)[0].known is None


def test_pieces_that_no_movement_reaches_can_be_left_out() -> None:
    labels = np.zeros((24, 24, 24), np.uint32)
    labels[:, :, ::4] = 5  # one object in sheets
    volume = TrainingVolume(image=np.zeros(labels.shape, np.uint8), labels=labels)
    both, one = examples_of(volume), examples_of(volume, connected=True)
    for number in range(5):
        assert both[number].target.any(axis=(0, 1)).sum() >= 2
        assert one[number].target.any(axis=(0, 1)).sum() == 1
        assert one[number].target[4, 4, 4]


def test_16_bit_images_are_normalised_in_their_own_greys() -> None:
    volume = thick_and_thin()
    wide = TrainingVolume(
        image=np.asarray(volume.image[:, :, :]).astype(np.uint16) * 200, labels=volume.labels
    )
    source = ExampleSource(
        [wide],
        config=ExampleConfig(shape_zyx=SHAPE, fill_fractions=(0.1, 0.5, 0.9, 1.0)),
        augmentation=PLAIN,
        normalisation=Normalisation(mean=20_000.0, std=10_000.0),
        seed=0,
    )
    for number in range(5):
        np.testing.assert_allclose(source[number].image, examples_of(volume)[number].image, atol=1e-5)


def test_bad_arrays_are_named() -> None:
    grey, ids = np.zeros((12, 12, 12), np.uint8), np.ones((12, 12, 12), np.uint32)
    with pytest.raises(ConfigError, match="labels: float32 are no ids; give integers"):
        TrainingVolume(image=grey, labels=ids.astype(np.float32))
    with pytest.raises(ConfigError, match="image: bool are no grey values; convert"):
        TrainingVolume(image=grey > 0, labels=ids)
    with pytest.raises(ConfigError, match=r"image: must be \(Z, Y, X\), found 4 axes; take one channel"):
        TrainingVolume(image=grey[None], labels=ids[None])
    holes = grey.astype(np.float32)
    holes[6, 6, 6] = np.nan
    with pytest.raises(ConfigError, match="image: has NaN or infinite voxels; fill them"):
        TrainingVolume(image=holes, labels=ids)
    with pytest.raises(ConfigError, match=r"augmentation\.swap_axes: examples of \(9, 9, 11\)"):
        ExampleSource(
            [TrainingVolume(image=grey, labels=ids)],
            config=ExampleConfig(shape_zyx=(9, 9, 11)),
            augmentation=AugmentConfig(swap_axes="yx"),
            normalisation=Normalisation(),
            seed=0,
        )


def test_nan_in_a_streamed_image_is_found_when_it_is_read(tmp_path: pathlib.Path) -> None:
    holes = np.full((12, 12, 12), np.nan, np.float32)
    np.save(tmp_path / "image.npy", holes)
    mapped = np.load(tmp_path / "image.npy", mmap_mode="r")
    source = examples_of(TrainingVolume(image=mapped, labels=np.ones((12, 12, 12), np.uint8)))
    with pytest.raises(ConfigError, match=r"volumes\[0\]\.image: has NaN"):
        source[0]

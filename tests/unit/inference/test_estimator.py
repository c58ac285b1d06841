"""``icon_dist.load``: the poses of an evaluation, of images from anywhere."""

from __future__ import annotations

import io
import weakref
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from PIL import Image

import icon_dist
from icon_dist.checkpoints import weights as stored_weights
from icon_dist.codec import codec_of
from icon_dist.config import EvalConfig
from icon_dist.errors import CheckpointError, ConfigError, DataError, DivergedError
from icon_dist.inference import estimator, predictor
from icon_dist.inference.estimator import PoseEstimator
from icon_dist.models import from_config
from icon_dist.shards.reader import photo_source
from icon_dist.shards.shard_set import open_shards
from icon_dist.types import Instance
from tests.support import small_sets as objects
from tests.support.small_models import CRATE, DOG, HAND, picture, weights_file, write

BOXES = [[10.0, 5.0, 60.0, 80.0], [70.5, 20.25, 45.0, 30.0]]


@pytest.fixture(scope="module")
def dog(tmp_path_factory: pytest.TempPathFactory) -> PoseEstimator:
    return icon_dist.load(weights_file(tmp_path_factory.mktemp("dog") / "dog.safetensors", DOG), device="cpu")


# ------------------------------------------------------------------------------------------- the same as an evaluation


@pytest.mark.parametrize(("codec", "decode", "flip"), [("msra", "quarter", False), ("udp", "dark", True)])
def test_joints_are_those_of_an_evaluation(codec: str, decode: str, flip: bool, tmp_path: Path) -> None:
    """To the bit: on the photos themselves, and on shards of photos that they hold byte for byte."""
    shape = objects.skeleton("thing", joints=5)
    shards = open_shards(objects.shards_of(shape, tmp_path))
    weights = str(
        weights_file(tmp_path / "w.safetensors", shape, f"data.codec={codec}", f"eval.decode={decode}", seed=1)
    )
    found = stored_weights.load(weights)
    config, model = found.config, from_config.restore(found).eval()
    box = (15.0, 15.0, 60.0, 60.0)
    empty = np.zeros((5, 3), np.float32)
    people = [Instance(i, i, f"{i}.jpg", (96, 96), box, 3600.0, empty) for i in range(8)]
    photos = photo_source(str(tmp_path / "thing-photos"), people, skeleton=shape)
    pose = icon_dist.load(weights, device="cpu", flip=flip, batch=8)
    ours = pose([tmp_path / "thing-photos" / f"{i}.jpg" for i in range(8)], [[box]] * 8)
    for evaluated in (photos, shards):
        codec, settings = codec_of(config), EvalConfig(batch=8, flip=flip, decode=decode)
        with closing(predictor.eval_stream(evaluated, codec, settings, loaders=0, device="cpu")) as stream:
            _, predictions = predictor.evaluate(model, stream, None, codec=codec, settings=settings, device="cpu")
        order = np.argsort(predictions.instance)
        found = np.concatenate([np.concatenate([one.xy, one.scores[..., None]], -1) for one in ours])
        np.testing.assert_array_equal(found, predictions.keypoints[order])
    assert len(set(found[..., 2].ravel().tolist())) == 40, "every crop is another"


def test_joints_are_those_of_a_naive_implementation(tmp_path: Path) -> None:
    """HRNet's ``get_affine_transform`` by three points, OpenCV's warp, a loop over joints: the published test."""
    weights = str(weights_file(tmp_path / "w.safetensors", HAND, "data.input=64x32"))
    model = from_config.restore(stored_weights.load(weights)).eval()
    image = picture(3, hw=(100, 150))
    poses = icon_dist.load(weights, device="cpu")(image, BOXES)
    for box, pose, scores in zip(BOXES, poses.xy, poses.scores, strict=True):
        there = _affine(box, wh=(32, 64))
        crop = cv2.warpAffine(image, there, (32, 64), flags=cv2.INTER_LINEAR)
        with torch.no_grad():
            maps = model(torch.from_numpy(crop)[None]).heatmaps[0].numpy()
        back = cv2.invertAffineTransform(there)
        for joint, heatmap in enumerate(maps):
            y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)
            assert scores[joint] == pytest.approx(heatmap[y, x], rel=2e-2)
            at = np.array([x, y], np.float64)
            if 1 < x < 7 and 1 < y < 15:
                at += 0.25 * np.sign([heatmap[y, x + 1] - heatmap[y, x - 1], heatmap[y + 1, x] - heatmap[y - 1, x]])
            expected = back @ [*(4 * at), 1] if heatmap[y, x] > 0 else back @ [0, 0, 1]
            np.testing.assert_allclose(pose[joint], expected, atol=1e-3)


def _affine(box: list[float], *, wh: tuple[int, int]) -> NDArray[np.float64]:
    x, y, w, h = box
    half = 1.25 / 2 * max(w, h * wh[0] / wh[1])
    (a, b), (c, d) = (x + w / 2, y + h / 2), (wh[0] / 2, wh[1] / 2)
    source, target = [(a, b), (a, b - half), (a - half, b - half)], [(c, d), (c, d - c), (0, d - c)]
    return np.asarray(cv2.getAffineTransform(np.float32(source), np.float32(target)))


# ---------------------------------------------------------------------------------------------------------- the call


def test_a_path_an_array_and_a_list_give_the_same_poses(dog: PoseEstimator, tmp_path: Path) -> None:
    images = [picture(i) for i in range(3)]
    files = [write(tmp_path / f"{i}.png", image) for i, image in enumerate(images)]
    whole = dog(images)
    assert [len(one) for one in whole] == [1, 1, 1]
    for file, image, poses in zip(files, images, whole, strict=True):
        np.testing.assert_array_equal(poses.boxes, [[0, 0, 120, 90]])
        np.testing.assert_array_equal(poses.image, image)
        for one in (dog(file), dog(str(file)), dog(image), dog(image, lambda rgb: [[0, 0, *rgb.shape[1::-1]]])):
            np.testing.assert_allclose(one.xy, poses.xy, atol=1e-3)
            np.testing.assert_allclose(one.scores, poses.scores, rtol=1e-3)
    two = dog(images[0], np.column_stack([BOXES, [0.5, 1.0]]))
    assert two.xy.shape == (2, 6, 2)
    assert two.scores.shape == (2, 6)
    assert two.names == DOG.joints
    np.testing.assert_array_equal(two.boxes, BOXES)
    certain = np.where(two.scores > 0.2, two.scores, 0).sum(-1) / np.maximum((two.scores > 0.2).sum(-1), 1)
    np.testing.assert_allclose(two.pose_scores, [0.5, 1] * certain, rtol=1e-5)
    nobody = dog(images[0], [])
    assert (len(nobody), nobody.xy.shape, nobody.to_coco()) == (0, (0, 6, 2), [])


def test_photos_are_read_as_people_see_them(dog: PoseEstimator, tmp_path: Path) -> None:
    """Turned by EXIF, gray, CMYK, and with 12 of 16 bits: the pixels are those of the plain photo, nearly."""
    image = picture(1)
    pillow = Image.fromarray(image)
    exif = Image.Exif()
    exif[274] = 6
    pillow.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    pillow.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    pillow.convert("L").save(tmp_path / "gray.png")
    cv2.imwrite(str(tmp_path / "deep.png"), image[..., ::-1].astype(np.uint16) << 4)
    np.testing.assert_array_equal(dog(tmp_path / "turned.png").image, image)
    np.testing.assert_array_equal(dog(tmp_path / "deep.png").image, image)
    gray = dog(tmp_path / "gray.png").image
    assert (gray == gray[..., :1]).all()
    assert np.abs(dog(tmp_path / "cmyk.jpg").image.astype(int) - image).mean() < 6


def test_a_batch_goes_across_photos_and_few_photos_are_held(
    dog: PoseEstimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    freed: list[int] = []
    most = 0

    def images() -> Iterator[tuple[NDArray[np.uint8], None]]:
        nonlocal most
        for number in range(40):
            one = picture(number, hw=(64, 64))
            weakref.finalize(one, freed.append, number)
            most = max(most, number + 1 - len(freed))
            yield one, None

    batches: list[int] = []
    monkeypatch.setattr(dog, "forward", lambda image, real=dog.forward: batches.append(len(image)) or real(image))
    monkeypatch.setattr(estimator, "HELD", 10 * 64 * 64 * 3)
    poses = [one.xy for one in dog.stream(images())]
    assert len(poses) == 40
    assert batches == [10, 10, 10, 10]
    assert most <= 12


def test_conditions_say_how_it_predicts(dog: PoseEstimator) -> None:
    said = dog.conditions
    assert str(said["model"]).endswith("dog.safetensors")
    assert (said["step"], said["channel_order"], said["flip"], said["decode"], said["codec"]) == (
        *(7, "rgb", False),
        *("quarter", "msra"),
    )


@pytest.mark.parametrize(
    ("boxes", "says"),
    [
        ([[0, 0, 0, 5]], "has no size"),
        ([[1, 2, 3]], "boxes of shape [1, 3]"),
        ([1, 2, 3, 4], "boxes of shape [4]: expected [[x, y, width, height], ...] in px of the image, or a function"),
        ([[500, 0, 5, 5]], "lies outside the image of 120x90 px"),
        ([[0, 0, float("nan"), 5]], "is not finite"),
        ([[0, 0, 5, 5], [1, 2]], "boxes="),
        ("whole", "boxes="),
        (lambda _: None, "boxes=None of the function that finds them; return [] where there are none"),
    ],
)
def test_boxes_that_are_none(boxes: object, says: str, dog: PoseEstimator) -> None:
    with pytest.raises(ConfigError, match="image: box") as refused:
        dog(picture(), boxes)
    assert says in str(refused.value)


def test_an_image_may_be_of_pillow_or_an_open_file(dog: PoseEstimator, tmp_path: Path) -> None:
    """Turned upright as its EXIF says, as a path is."""
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(picture()).save(tmp_path / "turned.png", exif=exif)
    by_path = dog(tmp_path / "turned.png", [[5, 5, 40, 50]])
    assert by_path.image.shape == (120, 90, 3)
    with open(tmp_path / "turned.png", "rb") as file:
        others = Image.open(tmp_path / "turned.png"), io.BytesIO((tmp_path / "turned.png").read_bytes()), file
        for other in others:
            assert np.array_equal(dog(other, [[5, 5, 40, 50]]).xy, by_path.xy)
    gray = dog(Image.fromarray(picture()).convert("L"))
    assert (gray.image == gray.image[..., :1]).all()


def test_images_that_are_none(dog: PoseEstimator, tmp_path: Path) -> None:
    for image in (
        picture().astype(np.float32),
        picture()[..., 0],
        picture()[:0],
        5,
        None,
        io.StringIO("text"),
        Image.fromarray(picture()[..., 0].astype(np.int32)),
        np.zeros((4, 4, 4), np.uint8),
    ):
        with pytest.raises(
            ConfigError, match=r"expected the path of a photo, an RGB array \[H, W, 3\] of uint8, a Pil"
        ):
            dog(image)
    with pytest.raises(DataError, match="no such photo"):
        dog(tmp_path / "none.jpg")
    with pytest.raises(ConfigError, match="1 for 2 images; give boxes for each image"):
        dog([picture(), picture()], [BOXES])


def test_models_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing is there; check the path, and give the folder of a run"):
        icon_dist.load(tmp_path / "none")
    (tmp_path / "model.pth").write_bytes(b"PK\3\4")
    with pytest.raises(CheckpointError, match="is a pickle, which can run code"):
        icon_dist.load(tmp_path / "model.pth")
    (tmp_path / "model.pt2").write_bytes(b"PK\3\4")  # what icon-dist export writes
    with pytest.raises(CheckpointError, match="an exported model; give the run"):
        icon_dist.load(tmp_path / "model.pt2")
    safetensors.torch.save_file({"conv.weight": torch.zeros(2)}, tmp_path / "public.safetensors")
    with pytest.raises(CheckpointError, match="weights of others; to make a model of them: icon-dist fetch FILE"):
        icon_dist.load(tmp_path / "public.safetensors")
    whole = (tmp_path / "public.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match="not written by icon-dist fetch, or cut"):
        icon_dist.load(tmp_path / "cut.safetensors")
    weights = weights_file(tmp_path / "crate.safetensors", CRATE)
    with pytest.raises(ConfigError, match=r"^device meta: "):
        icon_dist.load(weights, device="meta")
    with pytest.raises(ConfigError, match="batch=0: expected 1 or more"):
        icon_dist.load(weights, batch=0)


def test_a_model_that_answers_with_no_number(dog: PoseEstimator, monkeypatch: pytest.MonkeyPatch) -> None:
    real = dog.forward

    def broken(image: torch.Tensor) -> object:
        out = real(image)
        out.heatmaps.fill_(torch.nan)
        return out

    monkeypatch.setattr(dog, "forward", broken)
    with pytest.raises(DivergedError, match="not finite"):
        dog(picture())

"""Requests check themselves: every rule of the service's reference, all problems at once."""

from __future__ import annotations

import io
import os
import warnings
from enum import Enum
from pathlib import Path

import pytest
from PIL import Image

from happyhorse_async import ImageToVideo, InvalidRequestError, Model

LINK = "https://cdn.example.com/cat.png"


def picture(width: int, height: int, kind: str = "PNG") -> bytes:
    """Make a real image file."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(buffer, kind)
    return buffer.getvalue()


def heavy_png(size: int) -> bytes:
    """Make a PNG that is exactly `size` bytes long."""
    small = picture(400, 400)
    return small + b"\0" * (size - len(small))


WRONG = {
    "duration 2": ({"duration": 2}, "duration: expected whole seconds from 3 to 15, got 2"),
    "duration 16": ({"duration": 16}, "duration: expected whole seconds from 3 to 15, got 16"),
    "duration 5.5": ({"duration": 5.5}, "duration: expected whole seconds from 3 to 15, got 5.5"),
    "duration True": (
        {"duration": True},
        "duration: expected whole seconds from 3 to 15, got True",
    ),
    "seed 0": ({"seed": 0}, "seed: expected a whole number from 1 to 2147483647 or None, got 0"),
    "seed too large": (
        {"seed": 2147483648},
        "seed: expected a whole number from 1 to 2147483647 or None, got 2147483648",
    ),
    "quality 480p": ({"quality": "480p"}, "quality: expected '720p' or '1080p', got '480p'"),
    "prompt of bytes": ({"prompt": b"run"}, "prompt: expected text or None, got b'run'"),
    "prompt with half a character": (
        {"prompt": "run \ud83d"},
        "prompt: expected text that can be written as UTF-8; "
        "there is half of a surrogate pair in it",
    ),
    "callback with half a character": (
        {"callback_url": "https://example.com/\ud83d"},
        "callback_url: expected an https URL, got 'https://example.com/\\ud83d'",
    ),
    "http callback": (
        {"callback_url": "http://example.com/x"},
        "callback_url: expected an https URL, got 'http://example.com/x'",
    ),
    "private callback": (
        {"callback_url": "https://10.0.0.1/x"},
        "callback_url: the service does not call private addresses, and '10.0.0.1' is one",
    ),
    "model of two words": (
        {"model": "happy horse"},
        "model: expected a model's id such as 'happyhorse-1.0-image-to-video', got 'happy horse'",
    ),
    "model None": (
        {"model": None},
        "model: expected a model's id such as 'happyhorse-1.0-image-to-video', got None",
    ),
    "localhost callback": (
        {"callback_url": "https://localhost/x"},
        "callback_url: the service does not call private addresses, and 'localhost' is one",
    ),
    "callback of 2049": (
        {"callback_url": "https://example.com/" + "x" * 2029},
        "callback_url: expected at most 2048 characters, got 2049",
    ),
}


@pytest.mark.parametrize(("fields", "problem"), WRONG.values(), ids=WRONG)
def test_a_wrong_field_is_refused(fields: dict[str, object], problem: str) -> None:
    """Each field that breaks a rule is named, with what was given and what is expected."""
    with pytest.raises(InvalidRequestError) as caught:
        ImageToVideo(LINK, **fields)  # type: ignore[arg-type]
    assert caught.value.problems == (problem,)
    assert caught.value.charged == "no"


WRONG_IMAGES = {
    "an empty list": (
        [],
        "image: expected one http(s) link, path, or the bytes of an image, got an empty list",
    ),
    "two images": (
        [LINK, LINK],
        f"image: expected one http(s) link, path, or the bytes of an image, got {[LINK, LINK]!r}",
    ),
    "None": (None, "image: expected one http(s) link, path, or the bytes of an image, got None"),
    "an ftp link": (
        "ftp://example.com/cat.png",
        "image: expected an http or https link that the public internet can reach, got 'ftp://example.com/cat.png'",
    ),
    "a link with half a character": (
        "https://example.com/\ud83d.png",
        "image: expected an http or https link that the public internet can reach, got 'https://example.com/\\ud83d.png'",
    ),
    "a data URI": (
        "data:image/png;base64,AAAA",
        "image: expected one http(s) link, path, or the bytes of an image, got a text of 26 "
        "characters, 'data:image/png;base64,AAAA'; of base64, give the bytes: "
        "base64.b64decode(...)",
    ),
    "credentials": (
        "https://me:secret@example.com/cat.png",
        "image: the service cannot log in: leave user name and password out of the link",
    ),
    "no bytes": (b"", "image: the file is empty"),
    "a 299 px side": (
        picture(299, 400),
        "image: expected at least 300 px on each side, got 299 x 400 px",
    ),
    "a ratio of 2.6": (
        picture(780, 300),
        "image: expected sides between 1:2.5 and 2.5:1, got 780 x 300 px",
    ),
    "a ratio of 1:2.6": (
        picture(300, 780),
        "image: expected sides between 1:2.5 and 2.5:1, got 300 x 780 px",
    ),
    "10 MB and a byte": (
        heavy_png(10 * 1024 * 1024 + 1),
        "image: expected at most 10 MB (10485760 bytes), got 10485761 bytes",
    ),
    "a GIF": (picture(400, 400, "GIF"), "image: expected a JPEG, PNG or WEBP file, got GIF"),
    "a page": (b"<!DOCTYPE html><p>no", "image: expected a JPEG, PNG or WEBP file, got HTML"),
}


@pytest.mark.parametrize(("image", "problem"), WRONG_IMAGES.values(), ids=WRONG_IMAGES)
def test_a_wrong_image_is_refused(image: object, problem: str) -> None:
    """An image that the service would refuse is refused here first, for nothing."""
    with pytest.raises(InvalidRequestError) as caught:
        ImageToVideo(image)  # type: ignore[arg-type]
    assert caught.value.problems == (problem,)


@pytest.mark.parametrize(
    "image",
    [
        picture(300, 300),
        picture(750, 300),
        picture(300, 750, "JPEG"),
        picture(400, 400, "WEBP"),
        heavy_png(10 * 1024 * 1024),
        LINK,
        "http://example.com/a",
    ],
    ids=["300 px", "2.5:1", "1:2.5 JPEG", "WEBP", "10 MB", "https", "http"],
)
def test_the_edges_of_what_is_allowed_are_allowed(image: str | bytes) -> None:
    """Values on the limit pass."""
    assert ImageToVideo(image).image == image


def test_the_model_is_one_of_the_known_ones_or_any_other() -> None:
    """The two known models have names, any other id is taken as it is, and 1.0 is the default; all
    are plain text in the request.
    """
    assert ImageToVideo(LINK).model == Model.HAPPYHORSE_1_0 == "happyhorse-1.0-image-to-video"
    newer = ImageToVideo(LINK, model=Model.HAPPYHORSE_1_1)
    assert type(newer.model) is str
    assert newer == ImageToVideo(LINK, model="happyhorse-1.1-image-to-video")
    assert ImageToVideo(LINK, model="happyhorse-2:preview").model == "happyhorse-2:preview"


def test_all_problems_come_in_one_error() -> None:
    """One error lists every broken rule of a request, so that it is put right in one go."""
    with pytest.raises(InvalidRequestError) as caught:
        ImageToVideo(
            b"GIF89a", duration=2, seed=0, quality="480p", callback_url="http://127.0.0.1/"
        )  # type: ignore[arg-type]
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "image",
        "quality",
        "duration",
        "seed",
        "callback_url",
        "callback_url",
    ]


@pytest.mark.parametrize(
    ("prompt", "where"),
    [("马" * 2501, "after 2500"), ("a" * 5001, "after 5000")],
    ids=["2501 Chinese", "5001 other"],
)
def test_a_prompt_over_the_limit_warns_and_says_where_it_is_cut(prompt: str, where: str) -> None:
    """The service cuts silently, so the caller is told where, and the request still stands."""
    with pytest.warns(UserWarning, match=where):
        request = ImageToVideo(LINK, prompt=prompt)
    assert request.prompt == prompt


@pytest.mark.parametrize("prompt", ["马" * 2500, "a" * 5000, "", None])
def test_a_prompt_on_the_limit_does_not_warn(prompt: str | None) -> None:
    """The limit itself is allowed."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ImageToVideo(LINK, prompt=prompt)


class PathInBytes(os.PathLike[bytes]):
    """A path whose text is bytes, as `os.DirEntry` of `os.scandir(b".")` has it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> bytes:
        return os.fsencode(self._path)


class OwnModel(str, Enum):  # noqa: UP042 that is how many programs write it
    """Some program's own names of the models."""

    NEWER = "happyhorse-1.1-image-to-video"


def test_a_model_may_be_a_member_of_a_programs_own_enum() -> None:
    """What is sent is the member's text, and not its name."""
    model = ImageToVideo(LINK, model=OwnModel.NEWER).model
    assert (type(model), model) == (str, "happyhorse-1.1-image-to-video")


def test_an_image_may_be_a_path_in_text_a_path_or_bytes(cat: Path) -> None:
    """Text with a scheme is a link, other text a path; bytes in any form become bytes."""
    assert ImageToVideo(str(cat)).image == cat
    assert ImageToVideo(cat).is_local
    assert ImageToVideo(bytearray(cat.read_bytes())).image == cat.read_bytes()
    assert ImageToVideo(PathInBytes(cat)).image == cat  # type: ignore[arg-type]
    assert not ImageToVideo(LINK).is_local


def test_the_repr_does_not_show_the_bytes(cat: Path) -> None:
    """A log line with a request in it stays readable."""
    assert repr(ImageToVideo(cat.read_bytes())).startswith(
        f"ImageToVideo(image=<{cat.stat().st_size} bytes>, "
    )


def test_base64_is_no_image_and_the_message_says_what_is() -> None:
    """Other services take images so. To take it for a path would cost seconds of the event loop."""
    for image in ("QUJD" * 100_000, "data:image/png;base64," + "QUJD" * 100_000):
        with pytest.raises(
            InvalidRequestError, match=r"give the bytes: base64\.b64decode"
        ) as caught:
            ImageToVideo(image)
        assert len(str(caught.value)) < 500


def test_a_number_that_python_makes_no_text_of_is_refused() -> None:
    """It was an error of Python's, about its own limit."""
    with pytest.raises(InvalidRequestError, match=r"seed: .* a number of 16610 bits"):
        ImageToVideo(LINK, seed=10**5000)

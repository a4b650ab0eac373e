"""Who a job is: stable for the same request, another for every change that matters, and never a
dangerous file name.
"""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from happyhorse_async import ImageToVideo, Model
from happyhorse_async.batch import _identity, _jobs

LINK = "https://e.com/cat.png"


@pytest.mark.parametrize(
    "change",
    [{"prompt": "x"}, {"quality": "1080p"}, {"duration": 6}, {"seed": 1}, {"model": "m-2"}],
)
def test_every_field_counts(change: dict[str, object]) -> None:
    """Another prompt, quality, length, seed or model is another job."""
    assert _identity.fingerprint(ImageToVideo(LINK), None) != _identity.fingerprint(
        ImageToVideo(LINK, **change), None
    )  # type: ignore[arg-type]


def test_jobs_of_earlier_versions_keep_their_digests() -> None:
    """A request that names no model has the digest that version 0.1.0 gave it: a folder from then
    goes on with the same keys.
    """
    request = ImageToVideo(LINK, prompt="run", duration=9, seed=3)
    expected = "335263d4b1ba6e79ff3438a0594bc01b4e70ade5616d60960e7cc897ad6dfd89"
    assert expected == _identity.fingerprint(request, None)
    assert expected == _identity.fingerprint(
        attrs.evolve(request, model=Model.HAPPYHORSE_1_0), None
    )


def test_a_ledger_keeps_the_model_only_when_it_is_another_one() -> None:
    """A request with a model comes back from the ledger as it was; without one its text is as it
    always was.
    """
    plain, other = ImageToVideo(LINK), ImageToVideo(LINK, model="happyhorse-1.1-image-to-video")
    assert "model" not in _jobs.write_request(plain, None)
    assert _jobs.read_request(_jobs.write_request(other, None)) == other
    assert _jobs.read_request(_jobs.write_request(plain, None)) == plain


def test_what_does_not_count() -> None:
    """The callback URL, and the path of an image whose content is known, make no other job."""
    called = ImageToVideo(LINK, callback_url="https://e.com/hook/secret")
    assert _identity.fingerprint(called, None) == _identity.fingerprint(ImageToVideo(LINK), None)
    assert _identity.fingerprint(ImageToVideo("a.png"), "d") == _identity.fingerprint(
        ImageToVideo(Path("b.png")), "d"
    )
    assert _identity.fingerprint(ImageToVideo("a.png"), "d") != _identity.fingerprint(
        ImageToVideo("a.png"), "e"
    )


def test_keys() -> None:
    """A key depends on the batch, the job, its request and the attempt, and is one that the service
    takes.
    """
    keys = {
        _identity.key_of(*parts)
        for parts in [
            ("b", "j", "f", 1),
            ("c", "j", "f", 1),
            ("b", "k", "f", 1),
            ("b", "j", "f", 2),
        ]
    }
    assert len(keys) == 4
    assert all(16 <= len(key) <= 96 and set(key) <= set("abcdefh0123456789-") for key in keys)
    assert _identity.key_of("b", "j", "f", 1) == _identity.key_of("b", "j", "f", 1)


@pytest.mark.parametrize(
    "job_id",
    [
        "../../x",
        "",
        "con",
        "a\0b",
        "x" * 500,
        ".",
        "..",
        "a/b",
        "C:\\x",
        " a ",
        "naïve 東京",
        "-rf",
        "right\u202eto left",
        "com¹",
        "猫" * 80,
        "a" + "é" * 80,
    ],
)
def test_names_stay_in_the_folder(job_id: str) -> None:
    """Whatever the id, the video's name is one plain file name of a bearable length."""
    name = _identity.video_name(ImageToVideo(LINK), job_id, own=True)
    assert Path(name).name == name
    # Beside a video lie its part and the part's note; a name has room for 255 bytes.
    assert len(f"{name}.part.json".encode()) <= 255
    assert (
        len(
            _identity.video_name(
                ImageToVideo(f"https://e.com/{'猫' * 80}.png"), "0" * 16, own=False
            ).encode()
        )
        <= 245
    )
    assert name.endswith(".mp4")
    assert not name.startswith((".", "-"))
    assert not set(name) & set('/\\:*?"<>|\0')


def test_plain_ids_are_plain_names() -> None:
    """An id that is a good file name is the file's name; other jobs are named after their image."""
    assert _identity.video_name(ImageToVideo(LINK), "SKU-12.a", own=True) == "SKU-12.a.mp4"
    assert _identity.video_name(ImageToVideo(LINK), "0123", own=False) == "cat-0123.mp4"
    assert (
        _identity.video_name(ImageToVideo("https://e.com/"), "0123", own=False) == "video-0123.mp4"
    )


@pytest.mark.parametrize("job_id", ["cat-0123456789abcdef", "CAT-0123456789ABCDEF-2"])
def test_own_names_never_look_like_the_others(job_id: str) -> None:
    """An own id that ends as a name made from a digest does is hashed: the two kinds cannot meet,
    and the ledger need not compare them.
    """
    name = _identity.video_name(ImageToVideo(LINK), job_id, own=True)
    assert name == f"{_identity.hashed_stem(job_id)}.mp4"
    assert name.lower() != _identity.video_name(ImageToVideo(LINK), "0123456789abcdef", own=False)


def test_names_that_are_one_file_elsewhere() -> None:
    """Ids that differ in case or in how accents are written have names that differ in more, also
    where file systems fold them.
    """
    ids = [
        "\u00e9",
        "\u00c9",
        "e\u0301",
        "E\u0301",
        "stra\u00dfe",
        "STRASSE",
        "\u212a",
        "k",
        "\u0130x",
        "i\u0307x",
    ]
    names = {
        _identity.folded(_identity.video_name(ImageToVideo(LINK), job_id, own=True))
        for job_id in ids
    }
    assert len(names) == len(ids)
    assert _identity.video_name(ImageToVideo(LINK), "\u00e9", own=True) == "\u00e9.mp4"

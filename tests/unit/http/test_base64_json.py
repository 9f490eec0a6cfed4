import base64
import json

import pytest

from serve.http.base64_json import PICTURE, with_pictures


def test_each_picture_is_in_its_place() -> None:
    pictures = [bytes(range(256)), b"", b"\xff" * 5]
    text = json.dumps({"data": [PICTURE, None, PICTURE, PICTURE], "warning": "é \u202e"})
    read = json.loads(with_pictures(text, pictures))
    assert read == {
        "data": [
            base64.b64encode(pictures[0]).decode(),
            None,
            *(base64.b64encode(one).decode() for one in pictures[1:]),
        ],
        "warning": "é \u202e",
    }


def test_json_without_pictures_stays_as_it_is() -> None:
    assert with_pictures('{"é": 1}', []) == '{"é": 1}'.encode()


@pytest.mark.parametrize("pictures", [[], [b"a", b"b"]])
def test_as_many_pictures_as_places(pictures: list[bytes]) -> None:
    with pytest.raises(ValueError, match=r"zip\(\)"):
        with_pictures(f'["{PICTURE}"]', pictures)

"""No path leads out of the folders whose files are served."""

from pathlib import Path
from urllib.parse import unquote

import fastapi_offline
import httpx
import pytest

from serve.http import playground
from serve.http.api import build_api
from serve.http.options import HttpOptions
from tests.asgi import call, with_scope
from tests.unit.http.test_api import FakeRouter

APP = build_api(FakeRouter(), HttpOptions())
FOLDERS = {
    "/playground": Path(playground.__file__).parent,
    "/static-offline-docs": Path(fastapi_offline.__file__).parent / "static",
}
UP = [
    "../", "..%2f", "%2e%2e/", "%2e%2e%2f", "..%252f", "..\\", "..%5c",
    "%2e%2e%5c", "%252e%252e%252f", "....//", "..;/", "./../", "//../", "..%00/", "%c0%ae%c0%ae/",
    "%uff0e%uff0e/", "\u2025/",
]  # fmt: skip
TARGETS = ["api.py", "core.py", "__init__.py", "etc/passwd", "proc/self/environ"]


def get(path: str) -> httpx.Response:
    """The path as a client spells it: unquoted once, as servers do, and not tidied up."""
    return call(with_scope(APP, {"path": unquote(path), "raw_path": path.encode()}), "GET", "/")


@pytest.mark.parametrize("up", UP)
@pytest.mark.parametrize("folder", FOLDERS)
def test_nothing_outside_the_folder_is_served(folder: str, up: str) -> None:
    for target in TARGETS:
        for times in (1, 2, 12):
            response = get(f"{folder}/{up * times}{target}")
            assert response.status_code == 404, response.text
            assert response.json()["error"]["code"] == "route_not_found"


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize(
    "name",
    ["", ".", "/etc/passwd", "%2fetc%2fpasswd", "\0", "%00", "page.js%00", "C:%5cx", "a" * 5_000],
)
def test_what_names_no_file_of_the_folder_is_not_there(folder: str, name: str) -> None:
    assert get(f"{folder}/{name}").status_code == 404


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_link_in_the_folder_is_not_needed(folder: str) -> None:
    assert not [path for path in FOLDERS[folder].iterdir() if path.is_symlink()]


def test_the_folders_files_are_found_as_they_are_spelt_here() -> None:
    assert get("/playground/page.js").status_code == 200
    assert get("/static-offline-docs/%73wagger-ui.css").status_code == 200

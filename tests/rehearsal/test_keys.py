"""The key that the load brings is the one in the Secret that the overlay mounts."""

from pathlib import Path
from typing import Any

import pytest

from deploy.rehearsal import pods
from deploy.rehearsal.keys import with_key
from deploy.rehearsal.load import Load
from deploy.rehearsal.overlay import OverlayError
from deploy.rehearsal.pods import Pod
from deploy.rehearsal.serve_config import api_keys_file, read, with_argument
from deploy.rehearsal.translation import groups, secret_mounts
from serve.keys import KeyFile
from tests.fake_service import FakeService, serving

from .ray_service import overlay

CONFIG = read(overlay().ray_service)


class NoNetwork:
    def add(self) -> tuple[str, str]:
        return "namespace", "10.0.0.2"


def test_a_pod_finds_the_key_where_the_configuration_looks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pods, "SCRATCH", tmp_path)
    filled, config, key = with_key(overlay(), CONFIG)
    assert key is not None
    head, worker = groups(filled.ray_service)
    assert secret_mounts(worker) == {}
    pod = Pod("head", NoNetwork())  # type: ignore[arg-type]
    for path, secret in secret_mounts(head).items():
        pod.mount(path, filled.files[secret])
    looked_for = api_keys_file(config)
    assert looked_for == "/tmp/keys/keys.txt"
    file = tmp_path / "head" / looked_for.removeprefix("/")
    assert file.stat().st_mode & 0o077 == 0
    keys = KeyFile(file, ["original"])
    assert keys.find(key.encode()) is not None
    assert keys.find(b"dsd-another") is None
    assert key not in file.read_text()


def test_one_key_for_all_clients_has_no_bound_of_its_own() -> None:
    _, config, _ = with_key(overlay(), CONFIG)
    assert config["applications"][0]["args"]["max_requests_per_key"] is None
    assert CONFIG["applications"][0]["args"]["max_requests_per_key"] == 8


def test_without_a_file_of_keys_nothing_changes() -> None:
    config: dict[str, Any] = with_argument(CONFIG, api_keys_file=None)
    given = overlay()
    assert with_key(given, config) == (given, config, None)


def test_a_file_of_keys_that_no_secret_brings_is_named() -> None:
    with pytest.raises(OverlayError, match=r"'/elsewhere/keys\.txt' lies in no mounted Secret"):
        with_key(overlay(), with_argument(CONFIG, api_keys_file="/elsewhere/keys.txt"))


def test_the_load_brings_its_key_and_asks_what_others_get() -> None:
    with serving(FakeService()) as service:
        load = Load(service.url, ["original"], 1, (1,), "dsd-mine")
        load.once()
        assert service.keys == {"Bearer dsd-mine"}
        statuses = load.statuses_without_key()
    assert set(statuses) == {"no key", "another key"}
    assert service.keys == {"Bearer dsd-mine", None, "Bearer dsd-another"}

"""The cluster's settings of HAProxy, for namespaces on one machine."""

from loadtests import haproxy, namespaces


def test_the_settings_are_the_clusters_and_every_file_is_in_the_scratch_folder() -> None:
    settings = haproxy.environment()
    assert settings["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert settings["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1"
    paths = {name: value for name, value in settings.items() if value.startswith("/")}
    assert len(paths) == 6
    assert all(value.startswith(str(namespaces.SCRATCH)) for value in paths.values())

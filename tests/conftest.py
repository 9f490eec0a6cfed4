"""Ray's switches, before any test module imports Ray."""

from serve.settings import prepare_ray_environment

prepare_ray_environment()

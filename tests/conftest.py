"""Ray's and the model libraries' switches, before any test module imports them."""

from serve.settings import go_offline, prepare_ray_environment

prepare_ray_environment()
go_offline()

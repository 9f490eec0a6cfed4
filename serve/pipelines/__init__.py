"""Stable Diffusion on a device, one step at a time, with diffusers' models and schedulers."""

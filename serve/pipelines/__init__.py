"""Stable Diffusion on a device, one step at a time, from diffusers' models and schedulers."""

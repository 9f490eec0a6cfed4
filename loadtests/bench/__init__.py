"""Benchmarks for maintainers, each with bars that must hold.

engine     `make bench`: the engine and its policies against stock diffusers, in one process
gpu        the first minutes on a GPU: does it work, and how fast; most valuable questions first
serving    `make overhead`: what HTTP and Ray Serve cost, and what another replica brings
bars       what a benchmark must show: met, missed, or not decided and why
output     a result as report, JSON and exit status
"""

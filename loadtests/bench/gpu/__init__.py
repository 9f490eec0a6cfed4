"""`python -m loadtests.bench.gpu`: the first minutes on a GPU, most valuable questions first.

Each step is a process with a time limit of its own, each finding a line that is written when it is
made: what fails, hangs or is killed leaves what it had found, and the next step begins. Runs where
only torch, diffusers and transformers are.

__main__    the command: starts the steps one after the other within a budget, and ends with a table
step        one step, in this process: `python -m loadtests.bench.gpu.step NAME`
questions   what each step asks
findings    the lines, and the table for README and the report
"""

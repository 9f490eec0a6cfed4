"""`make bench`: the engine and its pipelines, in one process, without HTTP and without Ray.

contenders    the two ways to draw that are compared: ours and diffusers' own pipeline
sections      against stock, stage by stage, and the seed workload
load          the engine's policies under the same arrivals, by wall clock
bars          what must hold: the miniature's on a CPU, the published architectures' on a GPU
step_profile  where a step's time goes, for where a bar is missed
timing        clocks, the device's matmul peak, memory
run           a whole run; `report` makes it readable, `__main__` is the command
"""

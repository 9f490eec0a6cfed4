"""`make bench`: the pipelines alone, in one process, without HTTP.

contenders  the two ways to draw that are compared: ours and diffusers' own
sections    what is measured
timing      clocks, alternation, spread, the device's matmul peak, memory
report      the result as tables for people
__main__    the command
"""

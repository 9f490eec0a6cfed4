"""`make bench`: the engine and its pipelines, in one process, without HTTP and without Ray.

Against diffusers' own pipeline:

    contenders     the two ways to draw that are compared: ours and diffusers'
    sections       one request at a time, the seed workload, stages

The engine under load, by wall clock:

    traffic        requests at scheduled instants, or from a queue that is always full
    policies       `serial`, `batch` and `step` under the same arrivals; forecasts
    overlap        decoding and previews beside the steps; how soon a cancelled image is gone

The engine's rules with a virtual clock:

    simulation     `serve.engine.slots` over given call times
    extrapolation  held to what was measured; other loads, other devices

What comes of it:

    bars           what must be shown: met, missed or not run
    step_profile   where a step's time goes, for where a bar is missed
    report         the result as tables for people; `engine_report` those of the engine under load
    timing         clocks, alternation, spread, the device's matmul peak, memory
    run            a whole run; `__main__` is the command
"""

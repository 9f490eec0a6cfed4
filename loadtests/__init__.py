"""What the service costs: load on a running endpoint, and benchmarks of its pipelines alone.

Load on a running endpoint:

    locustfile    Locust users, one class per variant: a closed loop
    shapes        how many of them there are, over time; `profiles` says it without Locust
    openloop      requests at scheduled instants, whatever has come back; `arrivals` schedules them
    workload      what is asked for: the same prompts and seeds for every variant
    replies       whether a reply is the picture that was asked for
    samples       one request as it went, and the exact figures of a run

The pipelines alone:

    bench         `make bench`: our pipelines against diffusers' own, variant by variant
    comparison    what it measures, section by section
    contenders    the two ways to draw that it compares
    timing        clocks, alternation, spread, the device's matmul peak, memory
    bench_report  its result as a table for people and as JSON

Only `locustfile` and `shapes` import Locust: it replaces the sockets of the whole process.
"""

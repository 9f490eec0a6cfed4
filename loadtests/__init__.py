"""What the service costs: benchmarks of its pipelines, and reports of what was measured.

bench         `make bench`: our pipelines against diffusers' own, variant by variant
contenders    the two ways to draw that it compares
timing        clocks, alternation, spread, the device's matmul peak, memory
bench_report  its result as a table for people and as JSON
"""

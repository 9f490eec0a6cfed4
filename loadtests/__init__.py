"""Load tests: which variant to pay for, load on an endpoint, and benchmarks for maintainers.

Which variant to pay for:

    compare       `make loadtest`: every variant over an endpoint, and a report with a verdict
    plan          from that report to replicas, devices, cost and configuration for a rate

Load on a running endpoint:

    locustfile    Locust users, a class per built-in variant: a closed loop
    shapes        how many of them there are, over time; `profiles` says it without Locust
    trace_replay  a Locust user that fires the arrivals of a recorded trace
    openloop      requests at scheduled instants, whatever has come back; `arrivals` schedules them
    closedloop    so many users, each asking again as soon as it has its answer

What they share:

    workload      what is asked for: the same prompts and seeds for every variant
    client        one connection pool to an endpoint; `keys` says where its API key comes from
    replies       whether a reply is the picture that was asked for
    samples       one request as it went, and the exact figures of a run
    rounds        contenders in turn, round by round, and the spread of what they showed
    published     the published comparison and its workload
    machine       what a report names to be repeated; `markdown` makes its tables

The service without a model, for benchmarks and tests of faults:

    fixed_step    the application over denoising steps that take a fixed time
    local_serve   Ray and Serve on this machine
    namespaces    what listens on all interfaces is kept to itself, as is Serve's `haproxy`

Benchmarks that only maintainers run:

    bench         `make bench`, the engine alone; `make overhead`, what HTTP and Ray Serve add

Only `locustfile`, `shapes` and `trace_replay` import Locust: it replaces the sockets of the whole
process.
"""

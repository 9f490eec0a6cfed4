"""What the service costs: which variant to pay for, load on an endpoint, the pipelines alone.

Which variant to pay for:

    compare       `make loadtest`: every variant over an endpoint, and a report with a verdict
    plan          from that report to replicas, devices, cost and configuration for a rate
    replicas      what the second, third, ... replica brings; `fixed_step` is a device without one

Load on a running endpoint:

    locustfile    Locust users, one class per variant: a closed loop
    shapes        how many of them there are, over time; `profiles` says it without Locust
    openloop      requests at scheduled instants, whatever has come back; `arrivals` schedules them
    closedloop    so many users, without Locust: raw samples for `compare` and `replicas`

What they share:

    workload      what is asked for: the same prompts and seeds for every variant
    client        one connection pool to an endpoint; `keys` says where its API key comes from
    replies       whether a reply is the picture that was asked for
    samples       one request as it went, and the exact figures of a run
    published     the published comparison and its workload
    machine       what a report names to be repeated; `markdown` makes its tables
    local_serve   Ray and Serve on this machine
    namespaces    what listens on all interfaces is kept to itself, as is Serve's `haproxy`

The engine alone, without HTTP:

    bench         `make bench`: ours against diffusers' own, and the engine's policies

And what comes on top of it:

    overhead      `make overhead`: what HTTP and Ray Serve cost, and what others' servers do

Only `locustfile` and `shapes` import Locust: it replaces the sockets of the whole process.
"""

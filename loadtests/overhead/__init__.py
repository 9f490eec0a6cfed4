"""`make overhead`: what HTTP and Ray Serve cost beside the engine, and beside other servers.

Serve runs as in the cluster, HAProxy and all, in namespaces of its own. Contenders take turns in
one run, over steps that sleep, so that the device is not what is measured.

Against the engine alone:

    device      a denoiser whose steps sleep, and whose pictures weigh what a `photo` does
    contenders  the engine called directly, and the service over it

The router alone, and the same request elsewhere:

    instant     replicas that answer at once, behind the real router
    rivals      the same answer from others: `fastapi_rival`, `litserve_rival`

What both are measured with:

    users       so many at once, each asking again as soon as it has its answer
    accounts    CPU seconds by process; what else the machine was doing

What comes of it:

    run         a whole run, turn by turn; `__main__` is the command
    bars        what must hold: met, missed, or not decided where the machine was busy
    report      the result as tables for people
"""

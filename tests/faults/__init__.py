"""`make faults`: faults while requests come, each with its bounds, and one table of what was found.

Scenarios run on one of two services. `local` is the miniature and a sleeping device on a Ray of
this process (`local.yaml`). `overlay` is an overlay of `deploy/overlays`, rendered and run as
KubeRay's operator would run it, each pod in namespaces of its own. Both live in namespaces that
nothing outlives (`loadtests.namespaces`). A scenario acts on a `Stage` of its service: a client
whose pictures are compared with those drawn alone, an open loop at any rate, and waits with a
deadline.

    __main__    the command line: starts a service, plays its scenarios, prints and records them
    outcome     figures and bounds to "holds", "broken" or "not decided"; the table and the JSON
    load        the client that compares pictures, and the open loop in the background
    stage       what a scenario acts on
    machine     CPU that others use; memory and file descriptors of the serving processes
    local       the service on this machine's Ray
    stuck       its sleeping device, which hangs on request
    overlay/    the service that an overlay describes, without a cluster
    scenarios/  what is done to them, by topic

Bounds in seconds are for a quiet machine: one that is missed while others use over a tenth of the
cores is not decided, and nor is a request that only a time limit lost.

A rehearsed overlay is as on a cluster in its rendered manifests, `ray start` lines, environment,
readiness probes, restart policy, names and addresses of services, and in SIGTERM, grace period and
SIGKILL. It is not in these: pods run this checkout instead of the image, as the user who started
it, on a writable root, without limits and with Secrets in /tmp; GPUs are logical, and a denoising
step may be a sleep; one key stands for many clients and so has no limit of its own; pods start one
after the other; each worker group has one pod, with room for a replica more in place of an
autoscaler, in whose container a process only sleeps; an old cluster is kept for 30 s at most;
nothing retries a request.
"""

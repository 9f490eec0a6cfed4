"""`python -m deploy.rehearsal`: what KubeRay does with an overlay, done without a cluster.

The overlay is rendered with kubectl's kustomize. Its RayService is translated into pods as the
operator translates it; each pod is a network, process and mount namespace in which the very
`ray start` line runs. Then the overlay is put to the test, with load running the whole time.
`loadtests.namespaces` keeps all of it to itself, and lets nothing outlive it.

    overlay       kustomize's output: the RayService, and what its environment refers to
    quantities    `500m` and `8Gi` as numbers
    translation   the operator: a RayService to `ray start` lines and environment
    serve_config  the serve configuration; what stands in for a GPU
    keys          the Secret with API keys, and the key of the load
    network       a bridge, and a network namespace with an address per pod
    pods          a pod's processes: start, SIGTERM, grace period, SIGKILL
    dashboard     Serve's REST interface on a head, as the operator calls it
    kubelet       readiness and restarts of one pod
    autoscaler    one more worker for a replica that has no place
    clusters      the pods of one RayCluster, and their names in /etc/hosts
    controller    the operator's loop: pods, serve configuration, services, upgrades
    service       kube-proxy: one address before the ready endpoints, or before the head
    load          the open-loop generator in the background, and who lost what
    redis         what a fault-tolerant head keeps its state in
    stage         what scenarios act on, and what they wait for
    scenarios     one function per thing that must hold
    outcome       the table of what was done, sent, lost, and how long recovery took
"""

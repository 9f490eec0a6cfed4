"""An overlay of `deploy/overlays` as KubeRay's operator would run it, without a cluster.

The overlay is rendered with kubectl's kustomize. Its RayService is translated into pods as the
operator of KubeRay 1.7.0 translates it; each pod is a network, process and mount namespace in which
the same `ray start` line runs. Ray is reached as the operator reaches it, by its dashboard.

    manifests     the RayService, and what its environment refers to
    serve_config  the serve configuration; what stands in for a GPU
    translation   a RayService to `ray start` lines and environment
    pods          network, names, and a pod's processes: start, SIGTERM, grace period, SIGKILL
    kubelet       readiness and restarts of one pod
    operator      the operator's loop: pods, serve configuration, services, upgrades
    proxy         kube-proxy: one address before the ready endpoints
    service       all of it, as a service for scenarios
"""

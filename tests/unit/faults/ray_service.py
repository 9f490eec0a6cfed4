"""A RayService as an overlay renders it, small enough to read."""

from typing import Any

import yaml

from tests.faults.overlay.manifests import Overlay

HEAD_FQDN = "rs-head-svc.default.svc.cluster.local"

_RAY_SERVICE = """
apiVersion: ray.io/v1
kind: RayService
metadata: {name: rs}
spec:
  serveConfigV2: |
    applications:
      - name: app
        import_path: serve.app:build_app
        args: {family: sd-v1, weights_dir: /weights/sd-v1, device: cuda, max_image_steps: 100,
               api_keys_file: /keys/keys.txt, max_requests_per_key: 8}
        deployments:
          - {name: router, num_replicas: 3}
          - name: original
            autoscaling_config: {min_replicas: 2, max_replicas: 4}
            ray_actor_options: {num_gpus: 1, label_selector: {gpu: big}}
          - name: distilled
            num_replicas: 2
            ray_actor_options: {num_gpus: 1}
  rayClusterConfig:
    headGroupSpec:
      rayStartParams: {num-cpus: "0"}
      template:
        spec:
          volumes: [{name: api-keys, secret: {secretName: keys}}, {name: tmp, emptyDir: {}}]
          containers:
            - name: ray-head
              volumeMounts: [{name: tmp, mountPath: /tmp}, {name: api-keys, mountPath: /keys}]
              resources: {limits: {cpu: "2", memory: 1Gi}}
    workerGroupSpecs:
      - groupName: big
        replicas: 1
        minReplicas: 2
        rayStartParams: {}
        template:
          spec:
            terminationGracePeriodSeconds: 180
            containers:
              - name: ray-worker
                resources: {limits: {cpu: 500m, memory: 1Gi, nvidia.com/gpu: 1}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: ray-env}
data: {FROM_MAP: from-map}
"""


def overlay(**config: Any) -> Overlay:
    """The overlay, with fields of `rayClusterConfig` set; three of them go deeper."""
    manifests = list(yaml.safe_load_all(_RAY_SERVICE))
    cluster = manifests[0]["spec"]["rayClusterConfig"]
    (worker,) = cluster["workerGroupSpecs"]
    worker["template"]["spec"]["containers"][0].update(config.pop("container", {}))
    worker.update(config.pop("group", {}))
    cluster["headGroupSpec"].update(config.pop("head", {}))
    cluster.update(config)
    return Overlay("test", manifests)

"""What runs the service on Kubernetes; `tests.faults` tries it without a cluster."""

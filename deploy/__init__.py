"""What runs the service on Kubernetes, and `deploy.rehearsal`, which tries it without a cluster."""

"""The other half of the ingress: which variant and which replica draw a request."""

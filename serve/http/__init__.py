"""The HTTP side of the ingress: from bytes to a checked request, and from pictures to an answer."""

"""AUTOMATIC1111's dialect under `/sdapi/v1`: its routes, its requests in ours, its jobs."""

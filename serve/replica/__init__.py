"""The Ray actor around an engine: admission, drawing and encoding on one device."""

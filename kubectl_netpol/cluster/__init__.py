"""The Kubernetes API, read-only but for the debug pod."""

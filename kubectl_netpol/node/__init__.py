"""One node, read from an ephemeral privileged pod."""

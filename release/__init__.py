"""How releases are made. Nothing here is shipped."""

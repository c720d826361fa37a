"""Completion by kubectl's protocol: what may follow on a command line, and the file by which kubectl finds out."""

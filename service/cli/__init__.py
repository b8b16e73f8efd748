"""The command line, `lars-agent`."""

"""From the command line to a checked config, as plain dicts, lists and values. Never imports torch."""

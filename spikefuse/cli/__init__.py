"""The command line: prints and parses, computes nothing. Needs the `app` extra."""

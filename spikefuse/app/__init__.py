"""What the command line is made of; needs the `app` extra."""

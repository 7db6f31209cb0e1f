"""Pictures and charts, as PNG files."""

"""Whole files, optional packages, and the origin of results. Imports nothing else of spikefuse."""

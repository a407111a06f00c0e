"""A small Django application: what the Django suite migrates and queries."""

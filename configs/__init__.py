"""The YAML files that a user starts from, shipped as package data."""

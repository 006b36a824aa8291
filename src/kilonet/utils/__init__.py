"""Helpers that know nothing of networks: errors, files, schemas, text tables, environment."""

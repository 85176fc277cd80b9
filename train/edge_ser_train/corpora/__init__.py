"""Corpora on disk: tables, published layouts, splits by speaker, checks."""

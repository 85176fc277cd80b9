"""Recordings of many utterances: each answered on its own, as a table, a file or a picture."""

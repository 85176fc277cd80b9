"""The model file: containers, the manifest in them, and the files that ship."""

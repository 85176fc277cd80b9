"""PyTorch training of edge-ser models: corpora, network, losses, loop, evaluation."""

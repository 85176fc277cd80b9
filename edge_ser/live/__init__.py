"""Live audio: capture, the segmenter that finds utterances, the smoothed tone, the listener over them, its screen."""

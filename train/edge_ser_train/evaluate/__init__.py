"""Scores of a run or a model file: on corpora, under conditions, after personal calibration; pictures."""

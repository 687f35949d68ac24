"""Runs side by side: figures of data, scores of models, and which differences the questions show."""

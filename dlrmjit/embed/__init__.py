"""Vectors of images by residual networks whose weights others trained."""

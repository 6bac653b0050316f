"""Preparation: raw data of any size into a training set, in bounded memory and resumable."""

"""Turns raw data of any size into a set to train from, in bounded memory and resumably."""

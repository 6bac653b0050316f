"""The stages of a preparation: parse, encode, compute statistics, split and shuffle."""

"""Convolutions and pooling of images, computed in place: nothing is unrolled or padded."""

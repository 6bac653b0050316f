"""Rules of images and of sequences of vectors."""

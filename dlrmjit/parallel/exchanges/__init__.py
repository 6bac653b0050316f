"""What ranks exchange: vectors or sums of them, whichever takes fewer bytes, and gradients."""

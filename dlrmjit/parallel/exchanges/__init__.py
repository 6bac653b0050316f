"""What ranks exchange of embeddings: vectors, or sums of them, and which takes fewer bytes."""

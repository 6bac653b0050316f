"""Where the time of a step goes, and the least it could take."""

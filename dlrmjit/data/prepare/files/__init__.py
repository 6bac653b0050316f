"""The files that the stages hand to each other and leave behind."""

"""The stages that turn raw rows into a set, in the order in which they run."""

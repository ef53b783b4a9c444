"""A model is trained: from a checked config to its components, and the loop; it knows no disk and no Hydra."""

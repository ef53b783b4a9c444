"""What a run leaves on the disk: its directory and identity, its status, checkpoints, files written whole."""

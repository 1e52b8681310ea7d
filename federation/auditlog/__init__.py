"""The Merkle log of everything that happened: tree, checkpoints, proofs, events. No IO."""

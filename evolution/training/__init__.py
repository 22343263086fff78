"""Trains children: compiled programs, batches, objectives, augmentation."""

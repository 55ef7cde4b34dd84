"""Photographs: found, divided into training and validation sets, decoded, augmented."""

"""Code that training and the service share: the manifest, decoding and preprocessing.

Needs only numpy and Pillow. `training` and `service` import from here; this package imports neither.
"""

"""Why a picture cannot be used; the message says what to do.

ImageError(ValueError)
+-- UnsupportedImage    no signature of a format that is read here
+-- InvalidImage        a known signature, but the rest cannot be decoded
+-- TooManyPixels       larger than the caller's limit, by the header, before decoding
"""


class ImageError(ValueError):
    pass


class UnsupportedImage(ImageError):
    pass


class InvalidImage(ImageError):
    pass


class TooManyPixels(ImageError):
    pass

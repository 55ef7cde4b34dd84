"""Define the errors that decoding an image file raises; each message says what to do."""


class ImageError(ValueError):
    """Base class of the errors below."""


class UnsupportedImage(ImageError):
    """The file has no signature of a supported format."""


class InvalidImage(ImageError):
    """The format is supported, but the file cannot be decoded."""


class TooManyPixels(ImageError):
    """By its header, the picture has more pixels than the caller allows. Raised before decoding."""

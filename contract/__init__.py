"""What training promises and the service relies on: the manifest and the preprocessing.

Needs numpy and Pillow and nothing else; both other packages import from here, and only that way.
"""

"""Find photographs, divide them into training and validation, decode and augment them."""

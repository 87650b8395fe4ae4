"""Images and their labels; imports `core`, and from `models` on everything may import it."""

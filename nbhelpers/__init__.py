"""From a folder of texts and one sentence to a small text classifier with a number one can trust."""

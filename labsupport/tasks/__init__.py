"""What the labs train on: a text corpus, and synthetic tasks with verifiers."""

"""Side by side with the limit: every measurement is a ratio of two things done in one run (``make bench``)."""

"""Other people's servers, each in the way that its own documentation recommends."""

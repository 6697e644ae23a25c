"""Pages for people: of a run, of several, of a recording."""

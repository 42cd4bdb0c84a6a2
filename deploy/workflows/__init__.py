"""The main jobs, artefact in and artefact out; the command line adds only arguments and printing."""

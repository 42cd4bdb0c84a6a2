"""How fast artefacts are: load, figures, the GPU's counters, plots. In trtexec's words wherever it has them."""

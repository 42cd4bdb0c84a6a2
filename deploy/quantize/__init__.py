"""Calibration: streaming observers, ranges, the calibration artefact."""
